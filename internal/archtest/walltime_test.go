package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// timed lists the directories of what a node consists of: the code below them reads the time from
// the node's clock alone. The documentation of internal/walltime has the rule.
var timed = []string{"node", "mesh", "presence", "identity", "internal/events", "internal/task", "internal/wire"}

// readers lists the functions in these directories that read the machine's clock all the same, and
// why they may.
var readers = map[string]string{
	"identity/issuer.go Issue":  "an issuer runs where an app gives out tokens, and is no part of a node",
	"identity/order.go Order":   "an issuer gives it, and that is no part of a node either",
	"mesh/cursor.go move":       "a cursor belongs to the program that reads, and may outlive its node",
	"mesh/cursor.go WithResume": "the age of a cursor, by the same clock as its move",
}

// readings returns by the name of each function in a file, one line each, where it reads the
// machine's clock, or gives a reading of a node's clock to what knows only the machine's.
func readings(fset *token.FileSet, file *ast.File) map[string][]string {
	found := make(map[string][]string)
	for _, d := range file.Decls {
		name := ""
		if f, ok := d.(*ast.FuncDecl); ok {
			name = f.Name.Name
		}
		fault := func(n ast.Node, format string, args ...any) {
			found[name] = append(found[name], fmt.Sprintf("%s: %s", fset.Position(n.Pos()), fmt.Sprintf(format, args...)))
		}
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				of, ok := n.X.(*ast.Ident)
				switch {
				case !ok:
				case of.Name == "time" && slices.Contains([]string{"Now", "Since", "Until"}, n.Sel.Name):
					fault(n, "uses time.%s: the time comes from the node's clock", n.Sel.Name)
				case of.Name == "context" && strings.HasPrefix(n.Sel.Name, "WithDeadline"):
					fault(n, "uses context.%s: use WithTimeout, since a context does not know the node's clock", n.Sel.Name)
				}
			case *ast.CallExpr:
				if to, ok := n.Fun.(*ast.SelectorExpr); ok && strings.HasPrefix(to.Sel.Name, "Set") && strings.HasSuffix(to.Sel.Name, "Deadline") && len(n.Args) == 1 && !known(n.Args[0]) {
					fault(n, "%s: use walltime.In, since a connection does not know the node's clock", to.Sel.Name)
				}
			}
			return true
		})
	}
	return found
}

// known reports whether an argument is one that a connection takes for what it means: walltime.In,
// the zero time, or a variable that has the deadline of a context.
func known(arg ast.Expr) bool {
	var typ ast.Expr
	switch arg := arg.(type) {
	case *ast.Ident:
		return arg.Name == "deadline"
	case *ast.CallExpr:
		typ = arg.Fun
	case *ast.CompositeLit:
		typ = arg.Type
	}
	sel, ok := typ.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, ok := sel.X.(*ast.Ident)
	return ok && (of.Name == "walltime" && sel.Sel.Name == "In" || of.Name == "time" && sel.Sel.Name == "Time")
}

func TestANodeReadsTheTimeFromItsClock(t *testing.T) {
	above, used := filepath.ToSlash(root(t))+"/", make(map[string]bool)
	for _, dir := range timed {
		shipped := func(path string) bool {
			return !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "/dhttest/")
		}
		seen := eachFile(t, dir, shipped, func(fset *token.FileSet, file *ast.File) (found []string) {
			path := filepath.ToSlash(fset.Position(file.Pos()).Filename)
			for name, faults := range readings(fset, file) {
				key := strings.TrimPrefix(path, above) + " " + name
				if used[key] = readers[key] != ""; !used[key] {
					found = append(found, faults...)
				}
			}
			return found
		})
		require.NotZero(t, seen, dir)
	}
	for key, why := range readers {
		require.True(t, used[key], "%s (%s) does not read the machine's clock: it needs no entry", key, why)
	}
}

func TestReadingsOfTheMachinesClockAreFound(t *testing.T) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "x.go", `package x
func bad() { x(time.Now(), time.Since(t)); sleep(time.Until(t)) }
func passed() { now := time.Now; f(now()) }
func ctx() { context.WithDeadline(c, t) }
func io() { s.SetDeadline(clock.Now().Add(d)); s.SetReadDeadline(end) }
func good() { s.SetDeadline(walltime.In(d)); s.SetReadDeadline(time.Time{}); s.SetWriteDeadline(deadline); x(c.Now(), c.Since(t)) }
`, parser.SkipObjectResolution)
	require.NoError(t, err)
	const clock = ": the time comes from the node's clock"
	const conn = ": use walltime.In, since a connection does not know the node's clock"
	require.Equal(t, map[string][]string{
		"bad":    {"x.go:2:16: uses time.Now" + clock, "x.go:2:28: uses time.Since" + clock, "x.go:2:50: uses time.Until" + clock},
		"passed": {"x.go:3:24: uses time.Now" + clock},
		"ctx":    {"x.go:4:14: uses context.WithDeadline: use WithTimeout, since a context does not know the node's clock"},
		"io":     {"x.go:5:13: SetDeadline" + conn, "x.go:5:48: SetReadDeadline" + conn},
	}, readings(fset, file))
}
