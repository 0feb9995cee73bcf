package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pure lists the directories whose code decides and does nothing else: the caller passes the time
// and chance, holds the lock, and does the I/O.
var pure = []string{"mesh/internal/stay", "mesh/internal/rates"}

// impure lists what pure code does not import: locks, connections, and what is built on them.
var impure = []string{
	"os", "net", "sync", "sync/atomic", module + "/internal/task", module + "/internal/events",
	"github.com/libp2p/go-libp2p/core/host", "github.com/libp2p/go-libp2p/core/network", "github.com/libp2p/go-libp2p-pubsub",
}

// clocks are the functions of package time that look at a clock, or wait. chances are those of
// package math/rand/v2 that do not draw from the process's own source.
var (
	clocks  = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
	chances = []string{"New", "NewPCG", "NewChaCha8", "Rand", "Source"}
)

// impurities returns, one line each, what of a file is not pure.
func impurities(fset *token.FileSet, file *ast.File) (found []string) {
	fault := func(n ast.Node, format string, args ...any) {
		found = append(found, fmt.Sprintf("%s: %s", fset.Position(n.Pos()), fmt.Sprintf(format, args...)))
	}
	for _, i := range file.Imports {
		if path, err := strconv.Unquote(i.Path.Value); err != nil || slices.Contains(impure, path) {
			fault(i, "imports %s", i.Path.Value)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			fault(n, "starts a goroutine")
		case *ast.ChanType, *ast.SendStmt, *ast.SelectStmt:
			fault(n, "uses a channel")
		case *ast.SelectorExpr:
			of, ok := n.X.(*ast.Ident)
			switch {
			case !ok:
			case of.Name == "time" && slices.Contains(clocks, n.Sel.Name):
				fault(n, "calls time.%s: the caller passes the time", n.Sel.Name)
			case of.Name == "rand" && !slices.Contains(chances, n.Sel.Name):
				fault(n, "calls rand.%s: the caller passes the source of chance", n.Sel.Name)
			}
		}
		return true
	})
	return found
}

func TestPureCodeOnlyDecides(t *testing.T) {
	for _, dir := range pure {
		paths, err := filepath.Glob(filepath.Join(root(t), dir, "*.go"))
		require.NoError(t, err)
		paths = slices.DeleteFunc(paths, func(p string) bool { return strings.HasSuffix(p, "_test.go") })
		require.NotEmpty(t, paths, dir)
		for _, path := range paths {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, fault := range impurities(fset, file) {
				t.Error(fault)
			}
		}
	}
}

func TestImpureCodeIsFound(t *testing.T) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "x.go", `package x
import "sync"
func bad(c chan int) { c <- 1; go bad(c) }
func late() { x(time.Now(), rand.N(3)) }
func good(now time.Time, r *rand.Rand) { x(now.Add(time.Second), r.IntN(3)) }
`, parser.SkipObjectResolution)
	require.NoError(t, err)
	require.Equal(t, []string{
		`x.go:2:8: imports "sync"`,
		"x.go:3:12: uses a channel", "x.go:3:24: uses a channel", "x.go:3:32: starts a goroutine",
		"x.go:4:17: calls time.Now: the caller passes the time",
		"x.go:4:29: calls rand.N: the caller passes the source of chance",
	}, impurities(fset, file))
}
