package bench

import (
	"bufio"
	"encoding/binary"
	"io"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// The bare echo is the least that an acknowledged message can cost on libp2p: a length and a
// payload on a kept stream, and eight bytes back for each. It has no user, identity, deadline or
// order to keep, and copies nothing. If it sent the whole payload back, Starling would look better
// beside it.
const (
	echoProtocol protocol.ID = "/bench/echo"
	echoAnswer               = 8
)

// serveEcho answers each message on s. Answers to messages that arrived together are sent
// together.
func serveEcho(s network.Stream) {
	defer s.Reset()
	r, w := bufio.NewReaderSize(s, 64<<10), bufio.NewWriterSize(s, 64<<10)
	buf := make([]byte, 128<<10)
	for {
		n, err := binary.ReadUvarint(r)
		if err != nil || n > uint64(len(buf)) {
			return
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return
		}
		if _, err := w.Write(buf[:echoAnswer]); err != nil {
			return
		}
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return
			}
		}
	}
}

// echoFrame is a message of size bytes for serveEcho.
func echoFrame(size int) []byte {
	return append(binary.AppendUvarint(nil, uint64(size)), make([]byte, size)...)
}

// echo sends one message and waits for its answer.
func echo(s network.Stream, frame []byte) error {
	if _, err := s.Write(frame); err != nil {
		return err
	}
	var answer [echoAnswer]byte
	_, err := io.ReadFull(s, answer[:])
	return err
}

// echoMany sends n messages with at most window of them unanswered, and waits for all answers.
// While the window allows, messages are collected in writes of 64 KiB.
func echoMany(s network.Stream, frame []byte, n, window int) error {
	slots := make(chan struct{}, window)
	read := make(chan error, 1)
	go func() {
		r := bufio.NewReaderSize(s, 64<<10)
		var answer [echoAnswer]byte
		for range n {
			if _, err := io.ReadFull(r, answer[:]); err != nil {
				read <- err
				return
			}
			<-slots
		}
		read <- nil
	}()
	w := bufio.NewWriterSize(s, 64<<10)
	for range n {
		select {
		case slots <- struct{}{}:
		default:
			if err := w.Flush(); err != nil {
				return err
			}
			select {
			case slots <- struct{}{}:
			case err := <-read:
				return err
			}
		}
		if _, err := w.Write(frame); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return <-read
}
