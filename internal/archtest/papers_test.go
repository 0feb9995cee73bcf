package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// architecture returns a section of ARCHITECTURE.md; "": what stands before the first one.
func architecture(t *testing.T, title string) string {
	text, err := os.ReadFile(filepath.Join(root(t), "ARCHITECTURE.md"))
	require.NoError(t, err)
	if title == "" {
		before, _, _ := strings.Cut(string(text), "\n## ")
		return before
	}
	_, section, found := strings.Cut(string(text), "\n## "+title+"\n")
	require.True(t, found, title)
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}

// locked returns the names of the structs in a file that have a mutex of their own.
func locked(file *ast.File) (names []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				if sel, ok := f.Type.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Mutex" || sel.Sel.Name == "RWMutex") {
					names = append(names, spec.Name.Name)
				}
			}
		}
		return true
	})
	return names
}

func TestTheListOfLocksIsComplete(t *testing.T) {
	section, found := architecture(t, "Locks"), 0
	for _, dir := range []string{"identity", "mesh", "presence", "node", "internal/task", "internal/events"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root(t), dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			require.NoError(t, err)
			for _, name := range locked(file) {
				found++
				require.Regexp(t, "[`.]"+name+"[`.]", section, "%s: the lock of %s", path, name)
			}
			return nil
		}))
	}
	require.Greater(t, found, 25)
}

// Command packages stand in rows of several, without the directory that all are in.
func TestEveryPackageIsInTheTableOfPackages(t *testing.T) {
	section := architecture(t, "")
	for _, r := range table {
		dir := strings.TrimSuffix(r.dir, "/...")
		short := "…/" + filepath.Base(dir)
		require.Regexp(t, "`"+regexp.QuoteMeta(dir)+"/?`|`"+regexp.QuoteMeta(short)+"`| "+regexp.QuoteMeta(dir)+"/", section)
	}
}
