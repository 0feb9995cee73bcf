package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// insider is an attacker that is a member: its roster entry is valid, and it says and answers what
// it likes.
type insider struct {
	*attacker
	entry []byte
	feed  FeedID
	next  uint64
	tip   []byte
	out   map[peer.ID]network.Stream
	tasks sync.WaitGroup // answers
	over  context.Context
}

// insider adds an attacker that all members connected to it consider the member mallory.
func (f *flock) insider(room string, to ...int) *insider {
	f.t.Helper()
	m := &insider{attacker: f.attack(room, to...), next: 1, out: make(map[peer.ID]network.Stream)}
	_, _ = rand.Read(m.feed[:])
	over, stop := context.WithCancel(context.Background())
	m.over = over
	f.t.Cleanup(func() { stop(); m.tasks.Wait() })
	f.all.mu.Lock()
	f.all.sessions[m.host.ID()] = identity.Session{Incarnation: incarnations.Add(1)}
	f.all.mu.Unlock()
	m.entry = m.entryOf("mallory", func(e *wire.RosterEntry) { e.Feed = m.feed[:] })
	m.host.SetStreamHandler(RoomProtocol, func(s network.Stream) { // it takes what it is sent, and answers nothing
		r := wire.NewReader(s, maxRoomFrame)
		for r.Next(new(wire.RoomFrame)) == nil {
		}
	})
	for _, p := range m.host.Network().Peers() {
		m.tell(p, &wire.RoomFrame{Body: &wire.RoomFrame_Greeting_{Greeting: &wire.RoomFrame_Greeting{Entry: m.entry}}})
	}
	time.Sleep(time.Second)
	return m
}

func (m *insider) tell(p peer.ID, frame *wire.RoomFrame) {
	m.t.Helper()
	frame.Room = m.tag[:]
	raw, err := wire.AppendFrame(nil, frame)
	require.NoError(m.t, err)
	if m.out[p] == nil {
		m.out[p], err = m.host.NewStream(context.Background(), p, RoomProtocol)
		require.NoError(m.t, err)
	}
	_, err = m.out[p].Write(raw)
	require.NoError(m.t, err)
}

// asker returns the tag of the feed of a member's stay, which an answer to the member names.
func (m *insider) asker(p peer.ID) []byte {
	m.t.Helper()
	for _, s := range m.f.at {
		for _, r := range s.rooms {
			if s.host.ID() == p && r.tag == m.tag {
				r.mu.Lock()
				defer r.mu.Unlock()
				tag := r.stay.Own().Tag()
				return tag[:]
			}
		}
	}
	require.FailNow(m.t, "nobody to answer")
	return nil
}

// claim tells a member a position, as the answer to a question.
func (m *insider) claim(p peer.ID, tag stay.FeedTag, last, first uint64) {
	m.t.Helper()
	m.tell(p, &wire.RoomFrame{Body: &wire.RoomFrame_Heads_{
		Heads: &wire.RoomFrame_Heads{Feeds: []*wire.Position{{Feed: tag[:], Last: last, First: first}}, Answers: m.asker(p)},
	}})
}

func (m *insider) own() stay.FeedTag {
	return stay.TagFeed(identity.PublicKey(m.key.Public().(ed25519.PublicKey)), stay.FeedID(m.feed))
}

// seal makes an envelope of its own feed, with one text.
func (m *insider) seal(first uint64, previous []byte, text string) []byte {
	m.t.Helper()
	sealed, err := wire.SealEnvelope(m.key, &wire.Envelope{
		App: m.f.all.app[:], Room: m.tag[:], Device: m.key.Public().(ed25519.PublicKey), Feed: m.feed[:],
		First: first, Count: 1, Previous: previous, SentMs: time.Now().UnixMilli(),
		Content: wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte(text)),
	})
	require.NoError(m.t, err)
	return sealed
}

// follow makes the next envelope of its own feed.
func (m *insider) follow(text string) []byte {
	m.t.Helper()
	sealed := m.seal(m.next, m.tip, text)
	sum := sha256.Sum256(sealed)
	m.next, m.tip = m.next+1, sum[:]
	return sealed
}

// answers sets what it does with questions.
func (m *insider) answers(answer func(network.Stream, *wire.SyncRequest)) {
	m.host.SetStreamHandler(SyncProtocol, func(s network.Stream) {
		m.tasks.Add(1)
		defer m.tasks.Done()
		defer s.Reset()
		var q wire.SyncRequest
		if wire.NewReader(s, maxSyncRequest).Next(&q) == nil {
			answer(s, &q)
		}
	})
}

// pause waits, and reports false when the test is over.
func (m *insider) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-m.over.Done():
		return false
	}
}

// reply writes one frame of an answer, and reports whether it was sent.
func reply(s network.Stream, r *wire.SyncReply) bool {
	r.AgesMs = make([]uint64, len(r.Envelopes))
	return wire.WriteFrame(s, r) == nil
}

func TestWhateverANeighbourAnswersTheNextOneIsAskedAndNothingIsLost(t *testing.T) {
	for name, answer := range map[string]func(*insider, network.Stream, *wire.SyncRequest){
		"never": func(_ *insider, s network.Stream, _ *wire.SyncRequest) { _, _ = s.Read(make([]byte, 1)) },
		"with an empty frame a second": func(m *insider, s network.Stream, _ *wire.SyncRequest) {
			for reply(s, &wire.SyncReply{}) && m.pause(time.Second) {
			}
		},
		"with a byte a second": func(m *insider, s network.Stream, _ *wire.SyncRequest) {
			_, err := s.Write([]byte{0xff, 0x7f})
			for err == nil && m.pause(time.Second) {
				_, err = s.Write([]byte{0})
			}
		},
		"with garbage": func(_ *insider, s network.Stream, _ *wire.SyncRequest) {
			junk := make([]byte, 1<<16)
			_, _ = rand.Read(junk)
			_, _ = s.Write(junk)
		},
		"with another feed": func(m *insider, s network.Stream, _ *wire.SyncRequest) {
			reply(s, &wire.SyncReply{Entries: [][]byte{m.entry}, Envelopes: [][]byte{m.seal(9, make([]byte, 32), "unasked")}})
		},
		"with another room": func(m *insider, s network.Stream, _ *wire.SyncRequest) {
			tag := m.tag
			m.tag[0] ^= 1
			e := m.seal(9, make([]byte, 32), "elsewhere")
			m.tag = tag
			reply(s, &wire.SyncReply{Envelopes: [][]byte{e}})
		},
		"with a flood": func(m *insider, s network.Stream, _ *wire.SyncRequest) {
			e := m.seal(9, make([]byte, 32), "unasked")
			for i := 0; i < 1000 && reply(s, &wire.SyncReply{Envelopes: [][]byte{e, e, e, e}}); i++ {
			}
		},
		"that all is gone": func(m *insider, s network.Stream, q *wire.SyncRequest) {
			out := new(wire.SyncReply)
			for _, w := range q.Wants {
				out.Gone = append(out.Gone, &wire.Position{Feed: w.Feed, Last: math.MaxUint64})
			}
			reply(s, out)
			_ = s.Close()
			m.pause(time.Second)
		},
		"that there is more": func(m *insider, s network.Stream, _ *wire.SyncRequest) {
			reply(s, &wire.SyncReply{More: true})
			_ = s.Close()
			m.pause(time.Second)
		},
		"with nothing": func(m *insider, s network.Stream, _ *wire.SyncRequest) { _ = s.CloseWrite(); m.pause(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.Chain()
				rooms := f.joinAll("ops")
				m := f.insider("ops", 2)
				var asked atomic.Int32
				m.answers(func(s network.Stream, q *wire.SyncRequest) { asked.Add(1); answer(m, s, q) })
				author, victim := rooms[0], rooms[2]
				first := published(t, author, "u0", "before", 1)
				require.Equal(t, first, messages(t, victim, 1))
				f.net.Cut(1, 2)
				disconnect(t, f, 1, 2)
				want := published(t, author, "u0", "missed", 20)
				time.Sleep(time.Second)
				author.mu.Lock()
				tag, last := author.stay.Own().Tag(), author.stay.Inspect().Head.Last
				author.mu.Unlock()
				m.claim(f.at[2].host.ID(), tag, last, 0)
				time.Sleep(500 * time.Millisecond)
				require.Positive(t, asked.Load(), "it was asked first")
				f.net.Heal()
				f.net.Connect(1, 2)
				healed := time.Now()
				m.claim(f.at[2].host.ID(), tag, last, 0)
				time.Sleep(time.Second)
				want = append(want, published(t, author, "u0", "since", 5)...) // these come by gossip, and prove the gap
				require.Equal(t, want, messages(t, victim, len(want)))
				require.Less(t, time.Since(healed), pullTime+4*time.Second)
				for i := range 20 { // it goes on claiming, and the feed goes on
					m.claim(f.at[2].host.ID(), tag, last+1000, 0)
					text := published(t, author, "u0", fmt.Sprint("on ", i), 1)
					require.Equal(t, text, messages(t, victim, 1))
				}
			})
		})
	}
}

func TestANeighbourThatAnswersSlowlyIsNotAskedAgainWhileAnotherCan(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		m := f.insider("ops", 2)
		author, victim := rooms[0], rooms[2]
		messages(t, victim, len(published(t, author, "u0", "before", 1)))
		f.net.Cut(1, 2)
		disconnect(t, f, 1, 2)
		var want []string
		for i := range 20 { // an envelope each
			want = append(want, published(t, author, "u0", fmt.Sprint("missed ", i), 1)...)
			time.Sleep(50 * time.Millisecond)
		}
		author.mu.Lock()
		tag, last := author.stay.Own().Tag(), author.stay.Inspect().Head.Last
		author.mu.Unlock()
		m.answers(func(s network.Stream, q *wire.SyncRequest) { // one genuine envelope in all the time there is
			list := author.retained(tag, q.Wants[0].First)
			m.pause(syncTimeout - 100*time.Millisecond)
			reply(s, &wire.SyncReply{Envelopes: [][]byte{list[0].Sealed}})
			m.pause(syncTimeout - 100*time.Millisecond)
			reply(s, &wire.SyncReply{More: true})
			_ = s.Close()
			m.pause(time.Second)
		})
		m.claim(f.at[2].host.ID(), tag, last, 0)
		time.Sleep(time.Second)
		f.net.Heal()
		f.net.Connect(1, 2)
		healed := time.Now()
		require.Equal(t, want, messages(t, victim, len(want)))
		require.Less(t, time.Since(healed), pullTime+2*time.Second)
	})
}

// retained returns what a room has of a feed from an item on.
func (r *Room) retained(tag stay.FeedTag, first uint64) []stay.Kept {
	list := r.inside().Retained[tag]
	return slices.DeleteFunc(list, func(k stay.Kept) bool { return k.Last() < first })
}

func TestWhoAsksEndlesslyAndReadsNothingKeepsNobodyElseWaiting(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.Connect(0, 1)
		rooms := f.joinAll("ops")
		tag := rooms[0].stay.Own().Tag()
		for range 100 {
			_, err := rooms[0].PublishAsync(t.Context(), make([]byte, 60<<10), WithWaiting())
			require.NoError(t, err)
		}
		time.Sleep(5 * time.Second)
		greedy := make([]*insider, 6)
		for i := range greedy {
			greedy[i] = f.insider("ops", 0)
		}
		asks := make(chan struct{}, 1)
		for _, m := range greedy {
			for range 3 {
				m.tasks.Go(func() { // asks, reads nothing, and asks again as soon as it is given up
					for m.over.Err() == nil {
						s, err := m.host.NewStream(m.over, f.at[0].host.ID(), SyncProtocol)
						if err != nil {
							return
						}
						_ = wire.WriteFrame(s, &wire.SyncRequest{Room: rooms[0].tag[:], Wants: []*wire.Want{{Feed: tag[:], First: 1}}})
						select {
						case asks <- struct{}{}:
						default:
						}
						m.pause(10 * time.Second)
						_ = s.Reset()
					}
				})
			}
		}
		<-asks
		time.Sleep(2 * time.Second)
		f.at[0].repairs.mu.Lock()
		askers := len(f.at[0].repairs.askers)
		f.at[0].repairs.mu.Unlock()
		require.LessOrEqual(t, askers, len(greedy))
		require.Positive(t, askers)
		require.Positive(t, f.at[0].Stats().PullsRefused)

		sealed := captured(t, rooms[0], "never sent")
		rooms[0].mu.Lock()
		rooms[0].stay.Published(time.Now(), rooms[0].stay.Inspect().Head, 1, sealed, time.Now().Add(time.Minute), nil)
		rooms[0].rearm.Set()
		rooms[0].mu.Unlock()
		start := time.Now()
		require.Equal(t, "u0:never sent", messages(t, rooms[1], 101)[100])
		require.Less(t, time.Since(start), time.Second)
	})
}
