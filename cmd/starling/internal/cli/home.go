package cli

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// DefaultUser returns the system's user name, changed to be a valid ID.
func DefaultUser() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	return sanitizeUser(name)
}

// sanitizeUser turns a system's user name into a user ID, [a-zA-Z0-9_@.-]{1,128}. A domain in front
// (WORK\alice on Windows) is dropped, and every other character that an ID cannot have becomes a
// dash.
func sanitizeUser(name string) string {
	name = name[strings.LastIndexByte(name, '\\')+1:]
	id := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("_@.-", r):
			return r
		}
		return '-'
	}, name)
	id = id[:min(len(id), 128)]
	if strings.Trim(id, "-") == "" {
		return "user"
	}
	return id
}

// defaultDir is where the keys are unless --data says otherwise.
func defaultDir() (string, error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return "", errors.Join(fmt.Errorf("no directory for the keys: %w", err),
			errors.New("name one with --data DIR"))
	}
	return filepath.Join(config, "starling"), nil
}

// DataDir returns dir, or the default.
func DataDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	return defaultDir()
}
