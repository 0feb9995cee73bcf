package screen

import (
	"hash/fnv"
	"image/color"

	"charm.land/lipgloss/v2"
)

// theme is how the parts of the screen look. Colours are reduced to what the terminal has.
type theme struct {
	dim, rule, text, strong            lipgloss.Style
	bar, barDim, barGood, barBad       lipgloss.Style // the line at the top
	here, unread                       lipgloss.Style
	title                              lipgloss.Style
	self, good, warn, bad              lipgloss.Style
	popup, popupDim, picked, pickedDim lipgloss.Style
	key                                lipgloss.Style
	names                              []lipgloss.Style
}

func newTheme(dark bool) theme {
	pick := lipgloss.LightDark(dark)
	c := func(light, darkColour string) color.Color {
		return pick(lipgloss.Color(light), lipgloss.Color(darkColour))
	}
	fg := func(light, darkColour string) lipgloss.Style {
		return lipgloss.NewStyle().Foreground(c(light, darkColour))
	}
	barBack, popBack, accent := c("254", "236"), c("255", "235"), c("#3454c5", "#8aadf4")
	bar := lipgloss.NewStyle().Background(barBack)
	pop := lipgloss.NewStyle().Background(popBack)
	t := theme{
		dim:       fg("#6c7086", "#8c91aa"),
		rule:      fg("#c3c7d4", "#414559"),
		text:      lipgloss.NewStyle(),
		strong:    lipgloss.NewStyle().Bold(true),
		bar:       bar.Foreground(c("#1f2335", "#e6e9f5")).Bold(true),
		barDim:    bar.Foreground(c("#565a6e", "#a5adce")),
		barGood:   bar.Foreground(c("#1f6b24", "#a6d189")),
		barBad:    bar.Foreground(c("#8a4b00", "#e5c890")),
		here:      lipgloss.NewStyle().Foreground(accent).Bold(true),
		unread:    lipgloss.NewStyle().Foreground(c("#ffffff", "#1e2030")).Background(accent).Bold(true),
		title:     fg("#6c7086", "#8c91aa").Bold(true),
		self:      lipgloss.NewStyle().Foreground(accent).Bold(true),
		good:      fg("#2e7d32", "#a6d189"),
		warn:      fg("#b06000", "#e5c890"),
		bad:       fg("#c62828", "#e78284"),
		popup:     pop.Foreground(c("#1f2335", "#e6e9f5")),
		popupDim:  pop.Foreground(c("#565a6e", "#949cbb")),
		picked:    lipgloss.NewStyle().Background(accent).Foreground(c("#ffffff", "#1e2030")).Bold(true),
		pickedDim: lipgloss.NewStyle().Background(accent).Foreground(c("#e8ecff", "#2b3040")),
		key:       fg("#3454c5", "#8aadf4"),
	}
	for _, n := range [][2]string{
		{"#8e24aa", "#ca9ee6"}, {"#00796b", "#81c8be"}, {"#ad4e00", "#ef9f76"}, {"#c2185b", "#f4b8e4"},
		{"#33691e", "#a6d189"}, {"#01579b", "#85c1dc"}, {"#8d6e00", "#e5c890"}, {"#b71c1c", "#ea999c"},
	} {
		t.names = append(t.names, fg(n[0], n[1]).Bold(true))
	}
	return t
}

// name is the colour of a user: the same one wherever the name is shown.
func (t theme) name(user string) lipgloss.Style {
	h := fnv.New32a()
	h.Write([]byte(user))
	return t.names[h.Sum32()%uint32(len(t.names))]
}
