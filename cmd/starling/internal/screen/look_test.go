package screen

import (
	"fmt"
	"image/color"
	"math"
	"testing"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/stretchr/testify/require"
)

func TestTheLookFollowsTheTerminalsBackground(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.happens(message("lobby", bob, "hi"))
	dark, words := d.ui.View().Content, d.screen()
	d.ui.Update(tea.BackgroundColorMsg{Color: color.White})
	light := d.ui.View().Content
	require.NotEqual(t, dark, light)
	require.Equal(t, words, d.screen())
	d.ui.Update(tea.BackgroundColorMsg{Color: color.Black})
	require.Equal(t, dark, d.ui.View().Content)
}

func TestEmojiAreDrawnAsTheTerminalDoesOrTakenApart(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	family, thumb, heart, letters := "👩\u200d👩\u200d👧", "👍🏽", "❤\ufe0f", "क\u094d\u200dष"
	d.happens(message("lobby", bob, family+thumb+heart+letters+"."))
	require.Contains(t, d.screen(), "👩👩👧👍❤"+letters+".", "a joiner in letters stays")
	d.ui.Update(tea.ModeReportMsg{Mode: ansi.ModeUnicodeCore, Value: ansi.ModeSet})
	require.Contains(t, d.screen(), family+thumb+heart+letters+".")
	d.whole()
	d.types(family)
	require.Equal(t, 2, d.cursor())
}

func TestTheScreenSaysHowMuchRoomItNeeds(t *testing.T) {
	d := sit(t, 20, 5, "lobby")
	require.Equal(t, "starling needs 24 ×\n6, this is 20 × 5\n", d.screen())
	d.size(24, 6)
	require.Contains(t, d.screen(), "#lobby ›")
}

// luminance is the basis of contrast in the Web Content Accessibility Guidelines.
func luminance(c color.Color) float64 {
	part := func(v uint32) float64 {
		f := float64(v) / 0xffff
		if f <= 0.03928 {
			return f / 12.92
		}
		return math.Pow((f+0.055)/1.055, 2.4)
	}
	r, g, b, _ := c.RGBA()
	return 0.2126*part(r) + 0.7152*part(g) + 0.0722*part(b)
}

func TestEveryTextStandsOutFromWhatIsBehindIt(t *testing.T) {
	for _, dark := range []bool{true, false} {
		th := newTheme(dark)
		terminal := color.Color(color.White)
		if dark {
			terminal = color.RGBA{0x1e, 0x1e, 0x2e, 0xff} // lighter than most
		}
		styles := map[string]lipgloss.Style{
			"dim": th.dim, "title": th.title, "self": th.self, "good": th.good, "warn": th.warn, "bad": th.bad, "key": th.key, "here": th.here,
			"bar": th.bar, "barDim": th.barDim, "barGood": th.barGood, "barBad": th.barBad,
			"unread": th.unread, "popup": th.popup, "popupDim": th.popupDim, "picked": th.picked, "pickedDim": th.pickedDim,
		}
		for i, s := range th.names {
			styles[fmt.Sprint("name ", i)] = s
		}
		for name, s := range styles {
			back := terminal
			if _, none := s.GetBackground().(lipgloss.NoColor); !none {
				back = s.GetBackground()
			}
			a, b := luminance(s.GetForeground()), luminance(back)
			contrast := (max(a, b) + 0.05) / (min(a, b) + 0.05)
			if contrast < 4.5 {
				t.Errorf("%s, dark %v: a contrast of %.1f, want 4.5", name, dark, contrast)
			}
		}
	}
}
