// Package cputime tells what this process has used of all processors. Unlike the wall clock that does not count what other processes do
// meanwhile, so that measurements can be compared on a busy machine.
package cputime
