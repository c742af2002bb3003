package paper

import "html/template"

// Style is the style sheet of every printed page: black on white, A4 or
// Letter, no colour that a copier loses, nothing loaded from elsewhere.
const Style template.CSS = `
@page { margin: 13mm 17mm }
html { font: 10pt/1.38 "Noto Sans", "DejaVu Sans", Arial, sans-serif; color: #000; background: #fff }
body { max-width: 174mm; margin: 0 auto }
header { border-bottom: 1.5pt solid #000; margin-bottom: 3mm }
h1 { font-size: 21pt; line-height: 1.15; margin: 0 0 2mm }
h2 { font-size: 12pt; margin: 3.5mm 0 1mm; break-after: avoid }
p, ul, ol, dl { margin: 0 0 2mm }
ul, ol { padding-left: 6mm }
.kind { font-weight: 700; letter-spacing: .02em; margin-bottom: 1mm }
.stamp { border: 2.5pt solid #000; font-size: 15pt; font-weight: 700; text-align: center; padding: 2mm; margin-bottom: 4mm }
.side { display: flex; gap: 8mm; align-items: flex-start }
.side .qr { width: 58mm; height: 58mm; flex: none }
.side.wide .qr { width: 90mm; height: 90mm }
dl { display: grid; grid-template-columns: 1fr; flex: 1; min-width: 0 }
dt { font-size: 8.5pt }
dd { margin: 0 0 2mm; font-weight: 600; overflow-wrap: anywhere }
.mono, .lines { font-family: "Noto Sans Mono", "DejaVu Sans Mono", "Courier New", monospace; font-variant-ligatures: none }
.mono { font-size: 9.5pt }
.lines { font-size: 12pt; line-height: 1.5; margin: 0 0 2mm; border: .75pt solid #000; padding: 2.5mm 4mm; white-space: pre; break-inside: avoid }
.lines.fine { font-size: 7pt; line-height: 1.25; columns: 2; column-gap: 6mm; break-inside: auto }
.small { font-size: 8.5pt }
.line { display: inline-block; width: 60mm; height: 5mm; border-bottom: .75pt solid #000 }
.warn { border: 1.5pt solid #000; padding: 2mm 4mm; margin: 3mm 0; break-inside: avoid }
.warn > :last-child { margin-bottom: 0 }
table { border-collapse: collapse; width: 100%; margin-bottom: 2mm }
th, td { text-align: left; vertical-align: top; padding: 1mm 2mm 1mm 0; border-bottom: .5pt solid #000 }
td.mono { overflow-wrap: anywhere }
td.fix { white-space: nowrap }
.break { break-before: page }
@media screen { body { padding: 16mm 6mm } }
`
