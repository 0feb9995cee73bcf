package mesh

import (
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wrong sets each field of config to something that New must refuse.
var wrong = map[string]func(*config){
	"log":         func(c *config) { c.log = nil },
	"inbox":       func(c *config) { c.inbox = nil },
	"sendTimeout": func(c *config) { c.sendTimeout = 0 },
	"grace":       func(c *config) { c.grace = -1 },
	"large":       func(c *config) { c.large = 1 },
	"degree":      func(c *config) { c.degree = MaxMeshDegree + 1 },
	"queue":       func(c *config) { c.queue = QueueLimits{Events: 1, Bytes: 100} },
	"maxMessage":  func(c *config) { c.maxMessage = MaxMessage + 1 },
	"retention":   func(c *config) { c.retention.Bytes = 1000 },
	"pins":        func(c *config) { c.pins = nil },
	"linkDown":    func(c *config) { c.linkDown = nil },
	"rates":       func(c *config) { c.rates.Direct.Bytes = MinRateBytes - 1 },
	"heartbeat":   func(c *config) { c.heartbeat = 100*time.Millisecond - 1 },
}

// optional are settings whose zero value is a mode of its own. New checks them against the rest.
var optional = map[string]bool{"authority": true, "store": true, "keeper": true, "clock": true, "events": true}

func TestEverySettingHasADefaultAndACheck(t *testing.T) {
	good := defaultConfig()
	if err := good.validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	typ, val := reflect.TypeFor[config](), reflect.ValueOf(good)
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		if optional[name] {
			continue
		}
		if val.Field(i).IsZero() {
			t.Errorf("%s has no default", name)
		}
		change := wrong[name]
		if change == nil {
			t.Errorf("%s has no value here that New must refuse", name)
			continue
		}
		c := good
		change(&c)
		if err := c.validate(); err == nil {
			t.Errorf("%s: a wrong value passed", name)
		}
	}
	if len(wrong)+len(optional) != typ.NumField() {
		t.Errorf("%d wrong values for %d settings", len(wrong), typ.NumField()-len(optional))
	}
}

func TestAllWrongOptionsAreReportedTogether(t *testing.T) {
	all := newHellos()
	h := tcpHost(t)
	_, err := New(h, all.identityOf(t, h), WithSendTimeout(-time.Second), WithMaxMessage(0), WithHeartbeat(time.Millisecond), WithLogger(nil), WithInbox(nil), WithGrace(-1), WithLargeRoom(1), WithQueue(QueueLimits{Events: -1}), WithRetention(Retention{Age: -1}))
	if err == nil {
		t.Fatal("New took them")
	}
	for _, want := range []string{"options", "send timeout -1s", "message limit of 0", "heartbeat 1ms", "no logger", "no inbox", "grace -1ns", "large room of 1", "queue of -1 events", "retention of 131072 messages, 33554432 bytes and -1ns"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestZeroQueueLimitsStandForTheDefaults(t *testing.T) {
	var c config
	WithQueue(QueueLimits{Events: 1})(&c)
	require.Equal(t, QueueLimits{1, DefaultQueue.Bytes}, c.queue)
	WithQueue(QueueLimits{Bytes: 1 << 20})(&c)
	require.Equal(t, QueueLimits{DefaultQueue.Events, 1 << 20}, c.queue)
	WithQueue(QueueLimits{})(&c)
	require.Equal(t, DefaultQueue, c.queue)
}

func TestOptionsRecordWhatTheySay(t *testing.T) {
	c := defaultConfig()
	log := slog.Default()
	for _, o := range []Option{WithSendTimeout(time.Second), WithMaxMessage(10), WithHeartbeat(time.Minute), WithLogger(log),
		WithInbox(func(*DirectMessage, int) bool { return true }), WithGrace(0), WithLargeRoom(7), WithMeshDegree(5), WithQueue(QueueLimits{Events: 1, Bytes: 10}), WithRetention(Retention{Age: time.Hour}),
		WithRates(Rates{Room: 3})} {
		o.apply(&c)
	}
	if err := c.validate(); err != nil {
		t.Error(err)
	}
	if c.sendTimeout != time.Second || c.maxMessage != 10 || c.heartbeat != time.Minute || c.log != log || !c.inbox(nil, 0) ||
		c.grace != 0 || c.large != 7 || c.degree != 5 || c.retention != (Retention{DefaultRetention.Messages, DefaultRetention.Bytes, time.Hour}) || c.queue != (QueueLimits{Events: 1, Bytes: 10}) ||
		c.rates != (Rates{Room: 3}) {
		t.Errorf("recorded: %+v", c)
	}
}

func TestSettleReturnsTheValuesOfSettings(t *testing.T) {
	def, err := Settle()
	require.NoError(t, err)
	val := reflect.ValueOf(def)
	for i := range val.NumField() {
		require.False(t, val.Field(i).IsZero(), "%s has no value", val.Type().Field(i).Name)
	}
	got, err := Settle(WithSendTimeout(time.Second), WithGrace(0), WithLargeRoom(7), WithMeshDegree(5),
		WithQueue(QueueLimits{Events: 1, Bytes: 10}), WithMaxMessage(10), WithHeartbeat(time.Minute), WithRetention(Retention{Age: time.Hour}))
	require.NoError(t, err)
	require.Equal(t, Settings{
		SendTimeout: time.Second, LargeRoom: 7, MeshDegree: 5, Queue: QueueLimits{Events: 1, Bytes: 10}, MaxMessage: 10,
		Heartbeat: time.Minute, Retention: Retention{DefaultRetention.Messages, DefaultRetention.Bytes, time.Hour}, Rates: DefaultRates,
	}, got)
	_, err = Settle(WithGrace(-1), WithHeartbeat(0))
	require.ErrorContains(t, err, "grace -1ns")
	require.ErrorContains(t, err, "heartbeat 0s")
}

func TestGossipSubTakesEveryDegree(t *testing.T) {
	for d := MinMeshDegree; d <= MaxMeshDegree; d++ {
		inBubble(t, 4, func(t *testing.T, f *flock) {
			f.net.Chain()
			rooms := f.joinAll("ops")
			c, err := rooms[0].PublishConfirmed(t.Context(), []byte("to the end"))
			require.NoError(t, err)
			require.Empty(t, c.Unknown(), "degree %d", d)
		}, WithMeshDegree(d))
	}
}
