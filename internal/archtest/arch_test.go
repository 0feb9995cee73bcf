package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/starling-mesh/starling"

// row says which packages of this module the packages in a directory may import. Tests may import
// more: they are not checked.
type row struct {
	dir string   // below the module; "x/..." is every package under x, and x itself
	may []string // directories
}

// table has one row for every package, lowest first. A row lists what the package may import, not
// what it does import.
var table = []row{
	{"internal/wire", nil},
	{"internal/task", nil},
	{"internal/walltime", nil},
	{"internal/events", []string{"internal/task", "internal/walltime"}},
	{"identity", []string{"internal/wire", "internal/walltime"}},
	{"presence/internal/dht", []string{"identity", "internal/wire", "internal/task", "internal/walltime"}},
	{"presence", []string{"presence/internal/dht", "identity", "internal/wire", "internal/task", "internal/walltime"}},
	{"mesh/internal/rates", []string{"identity"}},
	{"mesh/internal/stay", []string{"mesh/internal/rates", "identity", "internal/wire"}},
	{"mesh", []string{"mesh/internal/stay", "mesh/internal/rates", "identity", "internal/wire", "internal/events", "internal/task", "internal/walltime"}},
	{"node", []string{"mesh", "presence", "identity", "internal/wire", "internal/events", "internal/task", "internal/walltime"}},
	{"cmd/starling/internal/prose", nil},
	{"cmd/starling/internal/cli", []string{"identity"}},
	{"cmd/starling/internal/token", []string{"identity", "cmd/starling/internal/prose", "cmd/starling/internal/cli"}},
	{"cmd/starling/internal/demo", []string{
		"node", "mesh", "presence", "identity", "internal/wire",
		"cmd/starling/internal/prose", "cmd/starling/internal/cli",
	}},
	{"cmd/starling/internal/session", []string{
		"node", "mesh", "presence", "identity",
		"cmd/starling/internal/prose", "cmd/starling/internal/cli", "cmd/starling/internal/token",
	}},
	{"cmd/starling/internal/screen", []string{
		"node", "mesh", "presence", "identity", "internal/task",
		"cmd/starling/internal/prose", "cmd/starling/internal/cli", "cmd/starling/internal/session",
	}},
	{"cmd/starling/internal/chat", []string{
		"node", "identity", "cmd/starling/internal/prose", "cmd/starling/internal/cli", "cmd/starling/internal/token",
		"cmd/starling/internal/session", "cmd/starling/internal/screen",
	}},
	{"cmd/starling", []string{
		"identity", "cmd/starling/internal/prose", "cmd/starling/internal/cli", "cmd/starling/internal/token",
		"cmd/starling/internal/demo", "cmd/starling/internal/session", "cmd/starling/internal/screen",
		"cmd/starling/internal/chat",
	}},
	// An example shows what any embedder can write, and an embedder cannot import internal
	// packages.
	{"examples/...", []string{"node", "mesh", "presence", "identity"}},
	// For tests: no shipped package may import these, and they do not import what they test.
	{"presence/internal/dhttest", []string{"identity"}},
	{"internal/vectors", nil},
	{"internal/meshtest", nil},
	{"internal/cputime", nil},
	{"internal/netlab", nil},
	{"internal/trial", nil},
	{"internal/archtest", nil},
}

// pkg is what go list reports about a package.
type pkg struct {
	ImportPath string
	Imports    []string
}

// faults returns what is wrong with the imports of pkgs, one line each, including packages without
// a row.
func faults(table []row, pkgs []pkg) []string {
	var found []string
	for _, p := range pkgs {
		dir, ours := strings.CutPrefix(p.ImportPath, module+"/")
		if !ours {
			continue
		}
		i := slices.IndexFunc(table, func(r row) bool { return r.covers(dir) })
		if i < 0 {
			found = append(found, fmt.Sprintf("%s has no row in the table of internal/archtest: add one that says what it may import", dir))
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module+"/")
			if ours && !slices.Contains(table[i].may, to) {
				found = append(found, fmt.Sprintf("%s imports %s: it may import %s", dir, to, table[i].allowed()))
			}
		}
	}
	return found
}

func (r row) covers(dir string) bool {
	parent, all := strings.CutSuffix(r.dir, "/...")
	return dir == parent || all && strings.HasPrefix(dir, parent+"/")
}

func (r row) allowed() string {
	if len(r.may) == 0 {
		return "nothing of this module"
	}
	return "only " + strings.Join(r.may, ", ")
}

// list runs go list for the whole module and all its dependencies, as built for one operating
// system.
func list(t *testing.T, goos string) []pkg {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", module+"/...")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go list for %s", goos)
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
}

// root returns the directory of the module.
func root(t *testing.T) string {
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	require.NoError(t, err)
	return filepath.Dir(strings.TrimSpace(string(gomod)))
}

// lookAtSources makes the test stat every source file of the module. go test caches a result while
// the files that the test has looked at are unchanged, but go list looks at them in its own
// process.
func lookAtSources(t *testing.T) {
	seen := 0
	require.NoError(t, filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		seen++
		_, _ = os.Stat(path)
		return nil
	}))
	require.NotZero(t, seen)
}

func TestArrowsBetweenPackagesPointDown(t *testing.T) {
	lookAtSources(t)
	for _, goos := range []string{"linux", "windows", "darwin"} {
		t.Run(goos, func(t *testing.T) {
			t.Parallel()
			pkgs := list(t, goos)
			require.True(t, slices.ContainsFunc(pkgs, func(p pkg) bool { return p.ImportPath == module+"/internal/wire" }),
				"go list has not listed this module")
			for _, fault := range faults(table, pkgs) {
				t.Error(fault)
			}
		})
	}
}

func TestTableItselfPointsDown(t *testing.T) {
	var below []string
	for _, r := range table {
		for _, dir := range r.may {
			require.Contains(t, below, dir, "%s may import %s, which is not below it", r.dir, dir)
		}
		below = append(below, r.dir)
	}
}

func TestFaultsAreToldReadably(t *testing.T) {
	of := func(dir string, imports ...string) []pkg {
		return []pkg{{ImportPath: module + "/" + dir, Imports: imports}}
	}
	for _, c := range []struct {
		name string
		pkgs []pkg
		want []string
	}{
		{"allowed", of("mesh", "fmt", module+"/identity", "github.com/libp2p/go-libp2p"), nil},
		{"up", of("identity", module+"/node"), []string{"identity imports node: it may import only internal/wire, internal/walltime"}},
		{"sideways", of("mesh", module+"/presence"), []string{"mesh imports presence: it may import only mesh/internal/stay, mesh/internal/rates, identity, internal/wire, internal/events, internal/task, internal/walltime"}},
		{"from the bottom", of("internal/wire", module+"/identity"), []string{"internal/wire imports identity: it may import nothing of this module"}},
		{"test code", of("node", module+"/internal/meshtest"), []string{"node imports internal/meshtest: it may import only mesh, presence, identity, internal/wire, internal/events, internal/task, internal/walltime"}},
		{"internal in an example", of("examples/embed", module+"/internal/wire"), []string{"examples/embed imports internal/wire: it may import only node, mesh, presence, identity"}},
		{"no row", of("util"), []string{"util has no row in the table of internal/archtest: add one that says what it may import"}},
		{"a row is no prefix", of("node2"), []string{"node2 has no row in the table of internal/archtest: add one that says what it may import"}},
		{"not ours", []pkg{{ImportPath: "github.com/starling-mesh/other", Imports: []string{module + "/node"}}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, faults(table, c.pkgs)) })
	}
}
