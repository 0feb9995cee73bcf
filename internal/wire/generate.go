package wire

//go:generate sh -c "GOBIN=$PWD/.bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 && protoc --plugin=.bin/protoc-gen-go --go_out=. --go_opt=paths=source_relative starling.proto && rm -r .bin"
