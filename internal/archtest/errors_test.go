package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// libraries are the packages whose errors a program shows to people.
var libraries = []string{"identity", "presence", "mesh", "node"}

// packageName is the name of a package where the text of an error begins, or goes on after another
// layer's.
var packageName = regexp.MustCompile(`(^|: |\()(` + strings.Join(libraries, "|") + `): `)

// namedPackages returns, one line each, where a text names a package. Such names pile up, one for
// each layer, and help only those who wrote the layers. A text says what was being done instead.
// What panics is for programmers, and may.
func namedPackages(fset *token.FileSet, file *ast.File) (found []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "panic" {
				return false
			}
		}
		if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING && packageName.MatchString(text.Value[1:]) {
			found = append(found, fmt.Sprintf("%s: %s names a package: say what was being done", fset.Position(text.Pos()), text.Value))
		}
		return true
	})
	return found
}

func TestErrorsNameNoPackages(t *testing.T) {
	seen := 0
	for _, dir := range libraries {
		seen += eachFile(t, dir, func(path string) bool { return !strings.HasSuffix(path, "_test.go") }, namedPackages)
	}
	require.Greater(t, seen, 100)
}

// eachFile reports what find finds in the Go files below a directory of the module that are wanted,
// and returns how many there are.
func eachFile(t *testing.T, dir string, wanted func(path string) bool, find func(*token.FileSet, *ast.File) []string) (seen int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(filepath.Join(root(t), dir), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || !wanted(path) {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		seen++
		for _, fault := range find(fset, file) {
			t.Error(fault)
		}
		return nil
	}))
	return seen
}

func TestAPackageInAnErrorIsFound(t *testing.T) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "x.go", `package x
var bad = errors.New("mesh: empty message")
var worse = fmt.Errorf("send: node: %w", bad)
func worst() error { return fmt.Errorf(`+"`no (identity: %w)`"+`, bad) }
var good = errors.New("no node: is it on")
func forProgrammers() { panic("mesh: " + good.Error()) }
`, parser.SkipObjectResolution)
	require.NoError(t, err)
	found := namedPackages(fset, file)
	require.Len(t, found, 3)
	for i, line := range []string{"x.go:2:", "x.go:3:", "x.go:4:"} {
		require.True(t, strings.HasPrefix(found[i], line), "%s", found[i])
	}
	require.True(t, slices.IsSorted(found))
}
