package stay

import (
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// pullWait is how long what a gap shows to be missing may still come by itself before a
	// neighbour is asked for it. claimWait is the same for what a neighbour says that it has: it
	// says so of feeds that are quiet. Both take up to half as long again at random, so that not
	// all members ask at once.
	pullWait  = 200 * time.Millisecond
	claimWait = 40 * time.Millisecond
	// retryWait is how long to wait before asking again neighbours that lack the same.
	retryWait = 500 * time.Millisecond
	// maxAgain is how often neighbours that did not answer are asked again, each time after twice
	// as long, if only their word says that they have something, or if a gap would be given up
	// otherwise. By then they have compared heads with this node again.
	maxAgain = 4
	// busyWait is the same if the neighbours to ask are being asked for something else.
	busyWait = 100 * time.Millisecond
	// hedgeWait is how long a neighbour that was asked may give nothing before another one is asked
	// too.
	hedgeWait = 800 * time.Millisecond
	// lostWait is how long after it showed a gap is given up at the earliest, if nobody has what is
	// missing: two heartbeats of GossipSub, in which others offer what they have. lackWait is the
	// same if neighbours lack it as well but may still get it. It counts from when what lies behind
	// the gap was published if one of them will never have it, and then the gap is given up
	// goneWait after it showed at the earliest.
	lostWait = 2500 * time.Millisecond
	goneWait = 5 * time.Second
	lackWait = 10 * time.Second
	// ApartWait is the same while a neighbour does not answer, was lost a moment ago, or has just
	// come back: it may have what is missing, and be cut off, or be about to get it.
	ApartWait = 20 * time.Second
	// enoughSources is how many neighbours must be unable to help before others' word that there is
	// more is dropped. allSources is the same before a gap that an envelope proves is given up:
	// members that joined later never had what is missing.
	enoughSources = 3
	allSources    = 16
	// MaxWants is how many feeds are asked for at once.
	MaxWants = 512
)

// repair is the state of fetching what is missing of a feed.
type repair struct {
	sources map[peer.ID]uint64 // neighbours that say how far they have it, if further than we
	tried   map[peer.ID]help   // neighbours that could not help since the feed last moved
	again   int                // how often those that did not answer have been asked again
	from    peer.ID            // the neighbour being asked; "": none
	at      uint64             // next, when it was asked
	asked   time.Time          // and when that was
	askAt   time.Time          // when to ask the next one; zero: nothing is missing
}

// maxSources bounds how many neighbours' positions are remembered. Usually three are asked.
const maxSources = 8

// upTo returns how far neighbours say the feed has got.
func (p *repair) upTo() (last uint64) {
	for _, n := range p.sources {
		last = max(last, n)
	}
	return last
}

// source notes that a neighbour has the feed through last.
func (p *repair) source(from peer.ID, last uint64) {
	if old, known := p.sources[from]; known {
		p.sources[from] = max(old, last)
		return
	}
	if p.sources == nil {
		p.sources = make(map[peer.ID]uint64)
	}
	if _, tried := p.tried[from]; len(p.sources) >= maxSources && !tried {
		for old, n := range p.sources {
			if _, tried := p.tried[old]; tried && n <= last {
				delete(p.sources, old) // it could not help after all
				break
			}
		}
	}
	if len(p.sources) < maxSources {
		p.sources[from] = last
	}
}

// stallsAt returns when to ask another neighbour beside the one that is being asked; zero: none is
// being asked, or it gives something.
func (f *Feed) stallsAt() time.Time {
	if f.repair.from == "" || f.next != f.repair.at {
		return time.Time{}
	}
	return f.repair.asked.Add(hedgeWait)
}

func (f *Feed) stalled(now time.Time) bool {
	at := f.stallsAt()
	return !at.IsZero() && !now.Before(at)
}

// moved resets which neighbours were asked: the feed has got further.
func (p *repair) moved(next uint64) {
	for from, last := range p.sources {
		if last < next {
			delete(p.sources, from)
		}
	}
	clear(p.tried)
	p.again = 0
}

// help is why a neighbour that was asked could not help.
type help uint8

const (
	lacks  help = iota // it may yet get what is missing
	gone               // it will never have it
	failed             // it has not answered
	silent             // it has not answered yet, and another one was asked as well
)

// count returns how many of those that were asked could not help for a reason.
func (p *repair) count(why help) (n int) {
	for _, h := range p.tried {
		if h == why {
			n++
		}
	}
	return n
}

// forget lets those that could not help for a reason be asked again.
func (p *repair) forget(why help) {
	maps.DeleteFunc(p.tried, func(_ peer.ID, h help) bool { return h == why })
}

func (p *repair) try(from peer.ID, h help) {
	if p.tried == nil {
		p.tried = make(map[peer.ID]help)
	}
	p.tried[from] = h
}

// Pull is a question to one neighbour.
type Pull struct {
	From  peer.ID
	wants []want
}

type want struct {
	feed *Feed
	span span
}

// plan returns which neighbours to ask for what, and what is lost. neighbours are those that may be
// asked now, in order of preference, all are those and the others. apart says that one was lost and
// may come back, back that one has just come back.
func (j *journal) plan(now time.Time, neighbours, all []peer.ID, apart, back bool) (pulls []Pull, lost []arrival) {
	wants := make(map[peer.ID][]want)
	for f := range j.lacking.all() {
		p := &f.repair
		if f.stalled(now) {
			p.try(p.from, silent) // its answer is still welcome
			p.from, p.askAt = "", now
		}
		if p.from != "" || now.Before(p.askAt) {
			continue
		}
		missing := f.missing(p.upTo())
		if len(missing) == 0 {
			j.lack(now, f)
			continue
		}
		switch from, busy := j.choose(f, neighbours, all); {
		case from != "":
			if len(wants[from]) >= MaxWants {
				continue
			}
			p.from, p.at, p.asked = from, f.next, now
			for _, s := range missing {
				wants[from] = append(wants[from], want{f, s})
			}
		case busy:
			p.askAt = now.Add(busyWait)
			if now.Sub(p.asked) >= retryWait {
				p.forget(lacks) // the busy one may be cut off, and they may have got it meanwhile
			}
		case len(all) == 0:
			p.askAt = now.Add(lackWait) // or when there is a neighbour
		default:
			if a, ok := j.exhausted(now, f, apart, back); ok {
				lost = append(lost, a)
			}
		}
	}
	for _, from := range neighbours {
		if w := wants[from]; len(w) > 0 {
			pulls = append(pulls, Pull{from, w})
		}
	}
	return pulls, lost
}

// choose returns the neighbour to ask next: one that said it has what is missing, then the author,
// then any. busy says that there is one but it cannot be asked now.
func (j *journal) choose(f *Feed, neighbours, all []peer.ID) (from peer.ID, busy bool) {
	p := &f.repair
	enough := enoughSources
	if f.proven() {
		enough = allSources
	}
	// rank returns how much a neighbour is worth asking; 0: it need not be asked.
	rank := func(id peer.ID) (n int) {
		if _, tried := p.tried[id]; tried {
			return 0
		}
		n = 1
		if f.peer() == id {
			n = 2
		}
		if p.sources[id] >= f.next {
			n += 2
		}
		if n == 1 && len(p.tried) >= enough {
			return 0
		}
		return n
	}
	best := 0
	for _, id := range neighbours {
		if n := rank(id); n > best {
			from, best = id, n
		}
	}
	return from, from == "" && slices.ContainsFunc(all, func(id peer.ID) bool { return rank(id) > 0 })
}

// exhausted decides what to do if nobody can help.
func (j *journal) exhausted(now time.Time, f *Feed, apart, back bool) (arrival, bool) {
	p := &f.repair
	lost := p.count(gone)
	never := lost == len(p.tried) // all that were asked: the word of one may be a lie
	unanswered, pending := p.count(failed) > 0, p.count(silent) > 0
	clear(p.tried)
	if !f.proven() {
		if unanswered && p.again < maxAgain {
			p.askAt = now.Add(retryWait << p.again)
			p.again++
			return arrival{}, false
		}
		p.again = 0
		// There was only others' word, and they did not keep it. Those that have it will say so
		// again.
		clear(p.sources)
		j.lack(now, f)
		return arrival{}, false
	}
	due := f.gapSince.Add(lackWait)
	switch {
	case never:
		due = f.gapSince.Add(lostWait)
	case lost > 0:
		// Others have known of the gap since what lies behind it was published. So members that
		// lack it one after the other do not each wait for as long.
		due = earlier(f.gapSince, f.held[0].came).Add(lackWait)
		if soon := f.gapSince.Add(goneWait); due.Before(soon) {
			due = soon
		}
	}
	if apart || pending || back && !never {
		due = f.gapSince.Add(ApartWait) // a neighbour that does not answer may have it
	}
	switch {
	case now.Before(due):
		p.askAt = now.Add(retryWait)
		return arrival{}, false
	case unanswered && p.again < maxAgain:
		p.askAt = now.Add(retryWait << p.again)
		p.again++
		return arrival{}, false
	}
	return j.giveUp(now, f), true
}

func (j *journal) giveUp(now time.Time, f *Feed) arrival {
	lost, ready, v := f.giveUp(now)
	ready, v = j.advanced(now, f, ready, v)
	return arrival{feed: f, lost: lost, ready: ready, verdict: v}
}

// help returns why the neighbour could not help with a feed.
func (o *Outcome) help(f *Feed) help {
	switch {
	case o.gone[f.tag] >= max(f.next, 1):
		return gone
	case o.Err != nil, o.more:
		return failed // the answer ended before it came to this feed
	}
	return lacks
}

// answered notes that a pull has ended. What it brought has been taken before.
func (j *journal) answered(now time.Time, p Pull, o Outcome) {
	for _, w := range p.wants {
		f := w.feed
		if f.repair.from != p.From {
			continue // already handled: a feed may have several wants
		}
		f.repair.from = ""
		if f.next == f.repair.at || o.Err != nil || o.Slow || !o.more && f.next <= w.span.last {
			f.repair.try(p.From, o.help(f))
		}
		f.repair.askAt = now
		if f.next != f.repair.at {
			j.lacking.remove(f) // others are asked for first now: an answer may have no room for all
		}
		j.lack(now, f)
	}
}

// left notes that a neighbour has gone.
func (j *journal) left(now time.Time, id peer.ID) {
	for _, feeds := range []*set[*Feed]{&j.lacking, &j.waiting} {
		for f := range feeds.all() {
			delete(f.repair.sources, id)
			delete(f.repair.tried, id)
		}
	}
}

// renew begins the wait for what is missing in gaps again, and that of later stays for it: nobody
// could have helped until now. After the retention nobody has it any more.
func (j *journal) renew(now time.Time) {
	if j.ready {
		j.returned = now
	}
	for f := range j.lacking.all() {
		if !f.proven() || now.Sub(f.held[0].came) >= j.ring.limits.Age {
			continue
		}
		f.gapSince = now
		for _, g := range j.stays.feeds[f.peer()] {
			if !g.queued.IsZero() {
				g.queued = now
			}
		}
	}
}

// retry asks soon for what is missing: there is a new neighbour to ask.
func (j *journal) retry(now time.Time) {
	for f := range j.lacking.all() {
		if f.repair.from == "" && f.repair.askAt.After(now.Add(claimWait)) {
			f.repair.askAt = now.Add(claimWait)
		}
	}
}
