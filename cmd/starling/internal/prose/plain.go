package prose

import "regexp"

// packageNames matches the prefixes of our packages' errors, at each layer. Which layer it was
// helps only a programmer.
var packageNames = regexp.MustCompile(`(?m)(^|: |\()(?:(?:node|mesh|presence|identity): )+`)

// Plain returns the text of an error as people see it.
func Plain(err error) string { return packageNames.ReplaceAllString(err.Error(), "$1") }
