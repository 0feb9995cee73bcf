package stay

import (
	"math"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func shows(t time.Time) uint64 { return uint64(t.UnixMilli()) }

func TestOfThreeNeighboursTheOneThatGivesTheLatestTimeIsBelieved(t *testing.T) {
	var c clocks
	add := func(author, but string) any {
		d, known := c.add(peer.ID(author), peer.ID(but))
		if !known {
			return "unknown"
		}
		return d
	}
	add2 := func(c *clocks) time.Duration {
		d, known := c.add("alice", "")
		require.True(t, known)
		return d
	}
	require.Equal(t, "unknown", add("alice", ""))
	c.hear(epoch, "alice", "bob", 0)
	c.hear(epoch, "alice", "bob", math.MaxUint64)
	require.Equal(t, "unknown", add("alice", ""), "neither nothing nor nonsense is a word")

	hour := after(time.Hour) // alice's clock is an hour ahead
	c.hear(after(50*time.Millisecond), "alice", "bob", shows(hour))
	require.Equal(t, 50*time.Millisecond-time.Hour, add("alice", ""))
	c.hear(after(10*time.Millisecond), "alice", "bob", shows(hour))
	require.Equal(t, 10*time.Millisecond-time.Hour, add("alice", ""), "the word that was faster")
	c.hear(after(3*time.Second), "alice", "bob", shows(hour))
	require.Equal(t, 10*time.Millisecond-time.Hour, add("alice", ""), "not the one that was slower")
	require.Equal(t, "unknown", add("alice", "bob"), "bob is not told what only bob says")

	c.hear(epoch, "alice", "mallory", shows(after(2*time.Hour)))
	require.Equal(t, 10*time.Millisecond-time.Hour, add("alice", ""), "one neighbour cannot make broadcasts look older")
	c.hear(epoch, "alice", "carol", shows(hour))
	c.hear(epoch, "alice", "dave", shows(epoch))
	require.Equal(t, 10*time.Millisecond-time.Hour, add("alice", ""), "three are enough")
	require.Equal(t, -time.Hour, add("alice", "bob"))

	c.hear(after(time.Minute), "alice", "bob", shows(after(-time.Hour)))
	require.Equal(t, time.Hour+time.Minute, add("alice", ""), "her clock was set back")
	require.Equal(t, -time.Hour, add("carol", ""), "an author's own word goes before all others")

	var other clocks
	other.merge("alice", c)
	require.Equal(t, c, other)
	other.hear(epoch, "alice", "alice", shows(after(5*time.Hour)))
	require.Equal(t, -5*time.Hour, add2(&other), "there is always room for the author's own")
	other.forget("alice")
	require.Equal(t, -5*time.Hour, add2(&other))
	c.forget("alice")
	require.Equal(t, "unknown", add("alice", ""))
}

func TestASeatForgetsClocksThatCannotBe(t *testing.T) {
	f := &Feed{entry: entry("alice", "a", 1, 1, true)}
	s := &seat{feed: f, entry: f.entry, Member: Member{Login: f.entry.Statement.Login()}}
	news := true
	envelope := func(sent, came time.Time) *Envelope {
		e := chain(1, 1)[0]
		e.SentMs, e.came = sent.UnixMilli(), came
		s.arrived(e, came, news)
		return e
	}
	require.Zero(t, s.showsNow(epoch, "bob", true))
	e := envelope(epoch, after(4*time.Second))
	require.Equal(t, after(4*time.Second), e.came, "nothing shows that it is older")
	require.Equal(t, shows(epoch), s.showsNow(after(4*time.Second), "bob", true), "the fastest envelope, if all that came was young")
	require.Zero(t, s.showsNow(after(4*time.Second), "bob", false))

	s.clocks.hear(after(4*time.Second), "alice", "bob", shows(after(3900*time.Millisecond)))
	require.Zero(t, s.showsNow(after(5*time.Second), "bob", false), "that is bob's own word")
	require.Equal(t, shows(after(4900*time.Millisecond)), s.showsNow(after(5*time.Second), "carol", false))
	require.Equal(t, after(100*time.Millisecond), envelope(epoch, after(4*time.Second)).came)
	require.Equal(t, after(14*time.Second), envelope(epoch, after(20*time.Second)).came, "as old as neighbours may call it")
	require.NotZero(t, s.clocks)
	news = false
	envelope(epoch, after(maxUnderWay+time.Second))
	require.NotZero(t, s.clocks, "anybody can send an old one once more")
	news = true
	envelope(epoch, after(maxUnderWay+time.Second))
	require.Zero(t, s.clocks, "nothing that came by gossip is as old as that")
}

func TestWhatIsHeldIsJudgedByTheClockOnceThatIsKnown(t *testing.T) {
	e := chain(1, 1, 1, 1, 1)
	j := newJournal(FeedTag{}, plenty)
	j.becomeReady(epoch)
	f := j.open(epoch, entry("alice", "a", 1, 1, true))
	alice := &seat{feed: f, entry: f.entry, Member: Member{Login: f.entry.Statement.Login()}}
	j.early = func(f *Feed, e *Envelope) bool { return j.unwanted(f, e, epoch, alice) }
	for i, e := range e {
		e.SentMs, e.came = after(time.Duration(i-3)*time.Second).UnixMilli(), after(time.Second)
	}
	for _, e := range e[1:] { // the first is missing, so nobody knows where the feed begins
		ready, _ := j.take(after(time.Second), "b", f, e)
		require.Empty(t, ready)
	}
	alice.clocks.hear(after(time.Second), alice.Peer, "b", shows(after(time.Second)))
	due := f.baselineDue()
	a := j.expire(due)
	require.Len(t, a, 1)
	require.Equal(t, e[3:], a[0].ready, "two of them are from before epoch")
	require.Zero(t, a[0].lost)

	f = j.open(epoch, entry("alice", "a", 2, 2, true))
	j.take(epoch, "b", f, e[0])
	require.True(t, j.early(f, e[1]), "the author's entry alone is nothing to hold on to")
	_, v := j.skip(epoch, f, e[1])
	require.Equal(t, taken, v)
	require.True(t, j.early(f, e[2]))
	j.skip(epoch, f, e[2])
	ready, v := j.take(epoch, "b", f, e[3])
	require.Equal(t, taken, v)
	require.Len(t, ready, 1)
}
