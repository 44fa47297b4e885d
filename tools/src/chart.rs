//! Charts as SVG files: light background, colours that the colour-blind tell apart, and a marker for each line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, Ranged, ValueFormatter};
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::Error;

/// Some quantity over another.
pub(crate) struct Panel {
    pub(crate) title: String,
    /// What the axes show, with units.
    pub(crate) across: &'static str,
    pub(crate) up: &'static str,
    /// Of both axes.
    pub(crate) scale: Scale,
    pub(crate) lines: Vec<Line>,
}

/// How an axis is divided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// By powers of ten.
    Log,
    /// Evenly, from 0 on.
    Linear,
}

/// One line of a panel.
pub(crate) struct Line {
    pub(crate) name: String,
    /// What is not measured, but known: dashed, without markers.
    pub(crate) known: bool,
    /// In rising order of the first coordinate.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Okabe and Ito, "Color Universal Design" (2008): blue, vermillion, bluish green, reddish purple, orange.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];

/// Of a dash, and of the gap after it, in px.
const DASH: (u32, u32) = (7, 5);

/// Of a panel, in px.
const SIZE: (u32, u32) = (860, 430);

/// A file that can be written; what it holds is replaced only when there is a chart.
pub(crate) struct ChartFile {
    path: PathBuf,
    file: File,
}

impl ChartFile {
    /// # Errors
    /// [`Error::Chart`] when it cannot be written.
    pub(crate) fn open(path: &Path) -> Result<ChartFile, Error> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let path = path.to_owned();
        match file {
            Ok(file) => Ok(ChartFile { path, file }),
            Err(error) => Err(Error::Chart { path: path.display().to_string(), error }),
        }
    }

    /// Writes the panels, one below the other.
    ///
    /// # Errors
    /// [`Error::Chart`] when the disk is full, for example.
    pub(crate) fn write(mut self, panels: &[Panel]) -> Result<(), Error> {
        let text = draw(panels);
        let written = text.and_then(|text| {
            self.file.set_len(0)?;
            self.file.write_all(text.as_bytes())
        });
        written.map_err(|error| Error::Chart { path: self.path.display().to_string(), error })
    }
}

fn draw(panels: &[Panel]) -> io::Result<String> {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, (SIZE.0, SIZE.1 * panels.len() as u32)).into_drawing_area();
    let drawn = root.fill(&WHITE).and_then(|()| {
        let areas = root.split_evenly((panels.len(), 1));
        panels.iter().zip(&areas).try_for_each(|(panel, area)| draw_panel(panel, area))?;
        root.present()
    });
    drawn.map_err(|error| io::Error::other(error.to_string()))?;
    drop(root);
    Ok(text)
}

type Drawn<'t> = Result<(), DrawingAreaErrorKind<<SVGBackend<'t> as DrawingBackend>::ErrorType>>;

fn draw_panel<'t>(panel: &Panel, area: &DrawingArea<SVGBackend<'t>, Shift>) -> Drawn<'t> {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 18))
        .margin(18)
        .x_label_area_size(52)
        .y_label_area_size(72)
        .build_cartesian_2d(
            Axis::over(panel.scale, points().map(|(x, _)| *x), 1.03),
            Axis::over(panel.scale, points().map(|(_, y)| *y), 1.4),
        )?;
    chart
        .configure_mesh()
        .x_desc(panel.across)
        .y_desc(panel.up)
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (number, line) in panel.lines.iter().enumerate() {
        let points = line.points.iter().copied();
        if line.known {
            let style = BLACK.mix(0.6).stroke_width(2);
            let swatch = move |(x, y)| dashed([(x, y), (x + 20, y)].into_iter(), style);
            chart.draw_series([dashed(points, style)])?.label(&line.name).legend(swatch);
            continue;
        }
        let colour = COLOURS[number % COLOURS.len()];
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?.label(&line.name).legend(
            move |(x, y)| {
                EmptyElement::at((x + 10, y))
                    + PathElement::new([(-10, 0), (10, 0)], colour.stroke_width(2))
                    + marker(number, colour)
            },
        );
        chart.draw_series(points.map(|point| EmptyElement::at(point) + marker(number, colour)))?;
    }
    chart
        .configure_series_labels()
        .position(match panel.scale {
            Scale::Log => SeriesLabelPosition::LowerRight,
            Scale::Linear => SeriesLabelPosition::UpperLeft,
        })
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()
}

fn dashed<P: Iterator + Clone>(points: P, style: ShapeStyle) -> DashedPathElement<P, u32> {
    DashedPathElement::new(points, DASH.0, DASH.1, style)
}

/// A shape for each line, for those who print without colours.
fn marker(number: usize, colour: RGBColor) -> Polygon<(i32, i32)> {
    let corners: &[(i32, i32)] = match number % COLOURS.len() {
        0 => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
        1 => &[(0, -6), (6, 5), (-6, 5)],
        2 => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
        3 => &[(0, 6), (6, -5), (-6, -5)],
        _ => &[(-5, -2), (0, -6), (5, -2), (3, 4), (-3, 4)],
    };
    Polygon::new(corners, colour)
}

/// An axis that is marked at 1, 2 and 5 times powers of ten, or at multiples of one of these.
struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
}

impl Axis {
    /// That shows all of these and a little more on either side: below a logarithmic one there is room for the names of the
    /// lines, above an even one as much as asked for.
    fn over(scale: Scale, values: impl Iterator<Item = f64>, room: f64) -> Axis {
        let shown = values.filter(|value| *value > 0.0);
        let (least, most) =
            shown.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
        match scale {
            Scale::Log if least > most => Axis { scale, least: 1.0, most: 10.0 },
            Scale::Log => Axis { scale, least: least / 2.0, most: most * 1.3 },
            Scale::Linear if least > most => Axis { scale, least: 0.0, most: 1.0 },
            Scale::Linear => Axis { scale, least: 0.0, most: most * room },
        }
    }

    fn marks(&self, steps: &[f64]) -> Vec<f64> {
        let powers = self.least.log10().floor() as i32..=self.most.log10().ceil() as i32;
        let marks = powers.flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        marks.filter(|mark| (self.least..=self.most).contains(mark)).collect()
    }
}

impl Ranged for Axis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = match self.scale {
            Scale::Log => (value.max(self.least) / self.least).ln() / (self.most / self.least).ln(),
            Scale::Linear => (value - self.least) / (self.most - self.least),
        };
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if self.scale == Scale::Linear {
            let power = 10_f64.powf(self.most.log10().floor() - 1.0);
            let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].map(|step| step * power);
            let step =
                steps.into_iter().find(|step| self.most / step <= LINEAR_MARKS_MAX).unwrap_or(self.most);
            return (0..=(self.most / step) as u32).map(|number| f64::from(number) * step).collect();
        }
        let fine = self.marks(&[1.0, 2.0, 5.0]);
        if fine.len() <= hint.max_num_points() { fine } else { self.marks(&[1.0]) }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.least..self.most
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        // 5 × 10⁻² is 0.05 and not what is left of the division.
        format!("{}", (value * 1e6).round() / 1e6)
    }
}

/// More are hard to tell apart.
const LINEAR_MARKS_MAX: f64 = 14.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn panel() -> Panel {
        let points = [1.0, 10.0, 1_000.0].map(|x| (x, x / 20.0)).to_vec();
        let line = |name: &str, known| Line { name: name.to_owned(), known, points: points.clone() };
        let lines = vec![line("one", false), line("other", true)];
        let (title, scale) = ("Something".to_owned(), Scale::Log);
        Panel { title, across: "subscribers", up: "Gbit/s", scale, lines }
    }

    #[test]
    fn axes_bear_units_and_round_numbers() {
        let text = draw(&[panel(), panel()]).unwrap();
        for expected in ["subscribers", "Gbit/s", "Something", "other", "\n1000\n", "\n0.05\n", "\n50\n"] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
    }

    #[test]
    fn an_even_axis_begins_at_0_and_has_round_steps() {
        let text = draw(&[Panel { scale: Scale::Linear, ..panel() }]).unwrap();
        for expected in ["\n0\n", "\n100\n", "\n1000\n", "\n5\n", "\n50\n"] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_refused_before_anything_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let refused = ChartFile::open(folder.path()).err().unwrap().to_string();
        assert!(refused.contains(&folder.path().display().to_string()), "{refused}");
        let path = folder.path().join("chart.svg");
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        ChartFile::open(&path).unwrap().write(&[panel()]).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().trim_end().ends_with("</svg>"));
    }
}
