package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// callersSlices returns, one line each, where a function appends to its own variadic parameter. A
// caller that passes a slice as opts... shares its array with that parameter. Such an append can
// overwrite what the caller, or another call at the same time, has behind the end of the slice.
func callersSlices(fset *token.FileSet, file *ast.File) (found []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		var in *ast.FuncType
		var body *ast.BlockStmt
		switch f := n.(type) {
		case *ast.FuncDecl:
			in, body = f.Type, f.Body
		case *ast.FuncLit:
			in, body = f.Type, f.Body
		}
		if in == nil || body == nil || len(in.Params.List) == 0 {
			return true
		}
		last := in.Params.List[len(in.Params.List)-1]
		if _, variadic := last.Type.(*ast.Ellipsis); !variadic || len(last.Names) == 0 {
			return true
		}
		ast.Inspect(body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "append" {
				return true
			}
			if to, ok := call.Args[0].(*ast.Ident); ok && to.Name == last.Names[0].Name {
				found = append(found, fmt.Sprintf("%s appends to %s..., which its caller may still use: append to slices.Clip(%s)",
					fset.Position(call.Pos()), to.Name, to.Name))
			}
			return true
		})
		return true
	})
	return found
}

func TestNobodyAppendsToTheSliceOfACaller(t *testing.T) {
	require.NotZero(t, eachFile(t, ".", func(path string) bool { return !strings.HasSuffix(path, ".pb.go") }, callersSlices))
}

func TestAnAppendToAVariadicParameterIsFound(t *testing.T) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "x.go", `package x
func bad(a int, opts ...int) { use(append(opts, 1)...) }
var bad2 = func(opts ...int) { opts = append(opts, 1) }
func good(opts ...int) { use(append(slices.Clip(opts), 1)...); use(append([]int{1}, opts...)...) }
func own(opts []int) { use(append(opts, 1)...) }
`, parser.SkipObjectResolution)
	require.NoError(t, err)
	require.Equal(t, []string{
		"x.go:2:36 appends to opts..., which its caller may still use: append to slices.Clip(opts)",
		"x.go:3:39 appends to opts..., which its caller may still use: append to slices.Clip(opts)",
	}, callersSlices(fset, file))
}
