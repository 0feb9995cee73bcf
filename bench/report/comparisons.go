package main

import "fmt"

// comparison is a ratio worth a line, and its target.
type comparison struct {
	what, than       string
	name, base, unit string
	most, least      float64 // targets; 0: none
}

func (c *comparison) judge(ratio float64) string {
	verdict := func(ok bool) string {
		if ok {
			return "met"
		}
		return "MISSED"
	}
	switch {
	case c.most > 0:
		return fmt.Sprintf("; target at most %s: %s", number(c.most), verdict(ratio <= c.most))
	case c.least > 0:
		return fmt.Sprintf("; target at least %s: %s", number(c.least), verdict(ratio >= c.least))
	}
	return ""
}

var comparisons = func() (all []comparison) {
	for _, size := range []string{"64B", "64KiB"} {
		c := comparison{
			what: "direct " + size + ", acknowledged, time", than: "bare echo",
			name: "Direct/" + size + "/starling", base: "Direct/" + size + "/bare", unit: "ns/op",
		}
		if size == "64B" {
			c.most = 1.5
		}
		median, cpu := c, c
		median.what, median.unit, median.most = "direct "+size+", acknowledged, median latency", "p50-µs", 0
		cpu.what, cpu.unit, cpu.most = "direct "+size+", acknowledged, CPU", "cpu-ns/op", 0
		all = append(all, c, median, cpu, comparison{
			what: "direct " + size + ", pipelined, messages a second", than: "bare pipelined echo",
			name: "Pipelined/" + size + "/starling", base: "Pipelined/" + size + "/bare", unit: "msg/s",
		})
	}
	for _, n := range []string{"2", "8", "32"} {
		for _, bare := range []struct{ name, text string }{
			{"bare", "bare GossipSub"}, {"bare-signed", "bare GossipSub, signed"}, {"bare-thin", "bare GossipSub with our topic mesh"},
		} {
			line := func(what, load, unit string, least float64) {
				all = append(all, comparison{
					what: "room of " + n + ", " + what, than: bare.text,
					name: "Room/" + n + "/starling/" + load, base: "Room/" + n + "/" + bare.name + "/" + load, unit: unit, least: least,
				})
			}
			target := 0.0
			if n == "8" && bare.name != "bare-thin" {
				target = 20
			}
			line("all publish, deliveries a second", "all", "deliveries/s", target)
			line("all publish, CPU of a delivery", "all", "cpu-ns/delivery", 0)
			line("one publishes, deliveries a second", "one", "deliveries/s", target)
			line("at rest, median latency", "rest", "p50-µs", 0)
		}
	}
	return all
}()
