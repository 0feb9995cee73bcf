// Package cputime measures how much processor time this process has used. Unlike wall-clock time,
// that excludes what other processes do meanwhile, so measurements can be compared on a busy
// machine.
package cputime
