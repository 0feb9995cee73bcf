package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/starling-mesh/starling/internal/wire"
)

// book drives a ledger without a clock or a stream.
type book struct {
	*ledger
	t   *testing.T
	now time.Time
	ps  []*sending
}

func newBook(t *testing.T) *book {
	return &book{ledger: &ledger{stats: new(counters)}, t: t, now: time.Unix(1_000_000, 0)}
}

// accept queues n messages with the usual deadline.
func (b *book) accept(n int) {
	for range n {
		body := wire.Direct{Payload: fmt.Appendf(nil, "message %d", len(b.ps))}
		p := &sending{id: uint64(len(b.ps) + 1), done: make(chan struct{}), body: body.AppendContent(nil), deadline: b.now.Add(12 * time.Second)}
		p.size = len(p.body)
		if b.unreliable {
			p.late = b.now.Add(LateAfter)
		}
		b.ps = append(b.ps, p)
		b.add(p)
	}
}

// written fills one write and returns the sequences in it.
func (b *book) written(limit int) (seqs []uint64) {
	b.t.Helper()
	r := wire.NewDirectReader(bytes.NewReader(b.fill(b.now, nil, limit)), maxDirectFrame, func(bool) {})
	var f wire.Direct
	for r.Next(&f) == nil {
		seqs = append(seqs, f.Sequence)
	}
	return seqs
}

// want checks how each message has ended: "." not yet, "ok", "no" refused, "?" unconfirmed, "x"
// unreachable.
func (b *book) want(ends ...string) {
	b.t.Helper()
	var got []string
	for _, p := range b.ps {
		select {
		case <-p.done:
			_, err := p.result()
			switch {
			case err == nil:
				got = append(got, "ok")
			case errors.Is(err, ErrRefused):
				got = append(got, "no")
			case errors.Is(err, ErrUnconfirmed):
				got = append(got, "?")
			case errors.Is(err, ErrUnreachable):
				got = append(got, "x")
			}
		default:
			got = append(got, ".")
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(ends) {
		b.t.Errorf("ends: got %v, want %v", got, ends)
	}
	live := 0
	for _, e := range got {
		if e == "." {
			live++
		}
	}
	if b.live != live {
		b.t.Errorf("live: got %d, want %d", b.live, live)
	}
	size := func(f *fifo) (n int) {
		for i := range f.len() {
			n += f.at(i).size
		}
		return n
	}
	if b.queueBytes != size(&b.queue) || b.sentBytes != size(&b.sent) {
		b.t.Errorf("bytes: got %d queued and %d sent, want %d and %d", b.queueBytes, b.sentBytes, size(&b.queue), size(&b.sent))
	}
}

func (b *book) wrote(limit int, want ...uint64) {
	b.t.Helper()
	if got := b.written(limit); fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("written: got %v, want %v", got, want)
	}
}

func (b *book) good(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Errorf("answer: %v", err)
	}
}

const all = 1 << 30

func TestAnAcknowledgementEndsAllBeforeIt(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(4)
	b.wrote(all, 1, 2, 3, 4)
	b.now = b.now.Add(30 * time.Millisecond)
	b.good(b.ack(3, b.now, true))
	b.want("ok", "ok", "ok", ".")
	if r, _ := b.ps[0].result(); r != (Receipt{ID: 1, RTT: 30 * time.Millisecond, Relayed: true}) {
		t.Errorf("receipt: got %+v", r)
	}
	b.good(b.ack(3, b.now, true)) // again
	b.good(b.ack(2, b.now, true)) // late
	b.want("ok", "ok", "ok", ".")
}

func TestARefusalEndsOneAndTheAcknowledgementPassesIt(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(3)
	b.wrote(all, 1, 2, 3)
	b.good(b.refuse(2, QueueFull))
	b.want(".", "no", ".")
	b.good(b.ack(3, b.now, false))
	b.want("ok", "no", "ok")
	if b.sent.len() != 0 {
		t.Errorf("%d records left", b.sent.len())
	}
}

func TestRefusalsAloneFreeTheWindow(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(3)
	b.wrote(all, 1, 2, 3)
	b.good(b.refuse(2, QueueFull))
	b.good(b.refuse(1, QueueFull))
	if b.sent.len() != 1 {
		t.Errorf("%d records left, want 1: both refused are the oldest", b.sent.len())
	}
	b.want("no", "no", ".")
}

func TestAnswersToWhatWasNeverSentAreViolations(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(2)
	b.wrote(1, 1)
	for name, err := range map[string]error{
		"ack of the unwritten": b.ack(2, b.now, false), "ack of 0": b.ack(0, b.now, false),
		"refusal of the unwritten": b.refuse(2, QueueFull), "refusal of 0": b.refuse(0, QueueFull),
	} {
		if !errors.Is(err, errViolation) {
			t.Errorf("%s: got %v, want a violation", name, err)
		}
	}
	b.want(".", ".")
	b.broken()
	b.opened()
	if err := b.ack(1, b.now, false); !errors.Is(err, errViolation) {
		t.Errorf("ack of what is not yet written on this stream: got %v, want a violation", err)
	}
}

func TestAfterABreakTheUnansweredAreWrittenAgainInOrderAndFirst(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(3)
	b.wrote(all, 1, 2, 3)
	b.good(b.ack(1, b.now, false))
	b.abandon(b.ps[1], context.Canceled)
	b.broken()
	b.opened()
	b.accept(1)
	b.wrote(all, 3, 4)
	b.good(b.ack(4, b.now, false))
	b.want("ok", "?", "ok", "ok")
}

func TestAMessageGivenUpBetweenTwoStreamsIsNotWrittenAgain(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(3)
	b.wrote(all, 1, 2, 3)
	b.broken()
	b.abandon(b.ps[1], context.Canceled)
	b.opened()
	b.wrote(all, 1, 3)
	b.good(b.ack(3, b.now, false))
	b.want("ok", "?", "ok")
}

func TestWhenThePeerRestartsOnlyTheUnwrittenGoOn(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(3)
	b.wrote(1, 1)
	b.broken()
	b.restarted()
	b.opened()
	b.want("?", ".", ".")
	b.wrote(all, 2, 3)
	b.good(b.ack(3, b.now, false))
	b.want("?", "ok", "ok")
}

func TestWhatATurnedAwayStreamCarriedWasNeverSent(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(1)
	b.wrote(all, 1)
	b.broken()
	b.opened()
	b.accept(3)
	b.wrote(all, 1, 2, 3, 4)
	b.abandon(b.ps[2], context.Canceled)
	b.turnedAway() // the peer is another process
	b.restarted()
	b.broken()
	b.want("?", ".", "?", ".")
	b.opened()
	b.wrote(all, 5, 6)
	b.good(b.ack(6, b.now, false))
	b.want("?", "ok", "?", "ok")
}

func TestAStreamTurnedAwayByTheSameProcessLosesNothing(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(1)
	b.wrote(all, 1)
	b.broken()
	b.opened()
	b.accept(2)
	b.wrote(all, 1, 2, 3)
	b.turnedAway()
	b.broken()
	b.opened()
	b.wrote(all, 1, 4, 5)
	b.now = b.now.Add(time.Minute)
	b.expire(b.now)
	b.want("?", "?", "?")
}

func TestDeadlinesEndTheWrittenAsUnconfirmedAndTheOthersAsUnreachable(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(2)
	b.wrote(1, 1)
	due, stuck := b.expire(b.now.Add(12*time.Second - 1))
	if !due.Equal(b.now.Add(12*time.Second)) || !stuck.IsZero() {
		t.Errorf("before: due %v, stuck %v", due, stuck)
	}
	b.want(".", ".")
	due, stuck = b.expire(b.now.Add(12 * time.Second))
	if !due.IsZero() || !stuck.Equal(b.now) {
		t.Errorf("at the deadline: due %v, stuck %v", due, stuck)
	}
	b.want("?", "x")
	b.good(b.ack(1, b.now, false)) // too late
	b.want("?", "x")
}

func TestNothingIsWrittenAgainBeyondTheHorizon(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(1)
	b.ps[0].deadline = b.now.Add(time.Hour)
	b.wrote(all, 1)
	if due, _ := b.expire(b.now); !due.Equal(b.now.Add(resendHorizon)) {
		t.Errorf("due: got %v, want %v", due, b.now.Add(resendHorizon))
	}
	b.expire(b.now.Add(resendHorizon))
	b.want("?")
}

func TestTheWindowBoundsWhatIsUnanswered(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(windowMessages + 10)
	if n := len(b.written(all)); n != windowMessages {
		t.Fatalf("written: got %d, want %d", n, windowMessages)
	}
	b.good(b.ack(4, b.now, false))
	if got := b.written(all); len(got) != 4 {
		t.Errorf("written after 4 were acknowledged: got %d", len(got))
	}
	b.abandon(b.ps[100], context.Canceled)
	if got := b.written(all); len(got) != 0 {
		t.Errorf("one given up was written: it still counts, but %v were written", got)
	}
}

func TestTheWindowBoundsBytesButTakesOneMessageOfAnySize(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(3)
	b.queueBytes += 2*windowBytes - b.ps[0].size - b.ps[1].size
	b.ps[0].size, b.ps[1].size = windowBytes, windowBytes
	b.wrote(all, 1)
	b.good(b.ack(1, b.now, false))
	b.wrote(all, 2)
}

func TestSequencesOnTheWireStayWithinWhatAReceiverRemembers(t *testing.T) {
	b := newBook(t)
	b.opened()
	b.accept(1)
	b.wrote(all, 1)
	for range 10 { // each break forgets those given up, and only the first message stays
		b.accept(windowMessages / 2)
		b.written(all)
		for _, p := range b.ps[1:] {
			b.abandon(p, context.Canceled)
		}
		b.broken()
		b.opened()
		b.written(all)
	}
	if b.seq >= 1+windowSpan+1 {
		t.Errorf("sequence %d was written while 1 is unanswered", b.seq)
	}
}

func TestUnreliableMessagesAreLostWithTheStreamAndDroppedWhenLate(t *testing.T) {
	b := newBook(t)
	b.unreliable = true
	b.opened()
	b.accept(2)
	b.wrote(1, 1)
	b.broken()
	b.want("?", ".")
	b.opened()
	b.now = b.now.Add(LateAfter + 1)
	b.accept(1)
	b.wrote(all, 2)
	b.want("?", "x", ".")
	if _, err := b.ps[1].result(); !errors.Is(err, errLate) {
		t.Errorf("got %v, want that it was late", err)
	}
}

func TestUnreliableMessagesAreDueWhenTheyBecomeLate(t *testing.T) {
	b := newBook(t)
	b.unreliable = true
	b.accept(1)
	if due, _ := b.expire(b.now); !due.Equal(b.now.Add(LateAfter)) {
		t.Errorf("due: got %v, want %v", due, b.now.Add(LateAfter))
	}
	b.expire(b.now.Add(LateAfter))
	b.want("x")
}

func TestMessagesGivenUpInTheQueueMakeRoom(t *testing.T) {
	b := newBook(t)
	b.accept(laneMessages)
	if !b.full(1) {
		t.Fatal("not full")
	}
	for _, p := range b.ps {
		b.abandon(p, context.Canceled)
	}
	if b.full(1) || b.queue.len() != 0 || b.queueBytes != 0 {
		t.Errorf("%d messages and %d bytes still count", b.queue.len(), b.queueBytes)
	}
}
