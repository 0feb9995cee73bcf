package stay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

// GossipSub has carried the last messages of a stay, and its goodbye, from one part of the room
// into another, where nobody knows when they were published.
func TestWhatMayBeOfAnEndedStayIsReportedLostRatherThanDelivered(t *testing.T) {
	type setting struct {
		after  time.Duration // joining
		stays  bool          // no goodbye has come
		dated  bool          // the author's clock is known
		says   uint64        // where the feed begins, according to a neighbour; 0: nobody says anything
		past   bool          // the app wants history
		entire bool          // the feed has come from its first item on
		alone  bool          // there is only the goodbye
	}
	for name, c := range map[string]struct {
		setting
		lost span
	}{
		"a newcomer":                           {setting{after: time.Second}, span{3, 5}},
		"the last moment":                      {setting{after: maxUnderWay - BaselineWait - 2*sureWait - time.Second}, span{3, 5}},
		"a member for long":                    {setting{after: maxUnderWay}, span{}},
		"its author is there":                  {setting{after: time.Second, stays: true}, span{}},
		"its author's clock is known":          {setting{after: time.Second, dated: true}, span{}},
		"a neighbour knows where it begins":    {setting{after: time.Second, says: 3}, span{}},
		"the app wants history":                {setting{after: time.Second, past: true}, span{}},
		"there is only the goodbye":            {setting{after: time.Second, alone: true}, span{}},
		"all of it has come, so it is younger": {setting{after: time.Second, entire: true}, span{}},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJournal(FeedTag{}, plenty)
			j.since, j.history = epoch, c.past
			j.becomeReady(epoch)
			j.closing = func(*Feed) bool { return !c.stays }
			j.dated = func(*Envelope) bool { return c.dated }
			now := after(c.after)
			f := j.open(now, entry("u", "author", 1, 1, true))
			e := chain(1, 1, 2, 1, 1) // items 1, 2, 3 and 4, 5, 6
			e[4].Content = wire.AppendItem(nil, wire.Kind_KIND_ROSTER, []byte("a goodbye"))
			switch {
			case c.alone:
				e = e[4:]
			case !c.entire:
				e = e[2:]
			}
			var got []uint64
			for _, e := range e {
				e.tag = f.tag
				ready, _ := j.take(now, "b", f, e)
				got = append(got, firsts(ready)...)
			}
			j.claim(now, "b", f.tag, 6, c.says, false)
			var lost span
			if !c.entire {
				_, arrived := j.expireUntil(t, now, anything)
				got, lost = append(got, firsts(arrived[0].ready)...), arrived[0].lost
			}
			require.Equal(t, c.lost, lost)
			switch {
			case c.entire:
				require.Equal(t, []uint64{1, 2, 3, 5, 6}, got)
			case c.alone:
				require.Equal(t, []uint64{6}, got)
			case lost.last > 0:
				require.Equal(t, []uint64{6}, got)
				first, sure := j.firsts(now, time.Hour, 0)(f)
				require.EqualValues(t, 3, first, "those who were there before may still want them")
				require.False(t, sure)
			default:
				require.Equal(t, []uint64{3, 5, 6}, got)
			}
			require.EqualValues(t, 7, f.next)
			if lost.last > 0 {
				a := j.claim(now, "c", f.tag, 5, 3, true)
				require.Zero(t, a.lost)
				require.EqualValues(t, 7, f.next, "what was reported lost does not come after all")
				list, _, _ := j.serve(f.tag, span{3, 5}, 1000)
				require.Len(t, list, 2, "others may know that it is for them")
			}
		})
	}
}
