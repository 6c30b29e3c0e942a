//! What a bench found: tables for people, a line for scripts, and a section of docs/benchmarks.md that has both.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::statistics::Sorted;

/// Where the sections are.
pub(crate) const DOCUMENT: &str = "docs/benchmarks.md";
/// Fewer rounds say too little to be written down.
pub(crate) const ROUNDS_MIN: usize = 7;

#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// As on the command line: `proxy h1`.
    pub(crate) name: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) keys: Vec<(String, f64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// Of the columns, but for the first one.
    pub(crate) heads: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// One thing that a round tells.
pub(crate) struct Figure<R> {
    pub(crate) name: &'static str,
    pub(crate) of: fn(&R) -> f64,
}

/// The rounds of one of those that are compared.
pub(crate) struct Measured<R> {
    pub(crate) name: String,
    pub(crate) rounds: Vec<R>,
}

impl<R> Figure<R> {
    /// # Errors
    /// There were no rounds.
    pub(crate) fn sorted(&self, measured: &Measured<R>) -> Result<Sorted> {
        Sorted::new(measured.rounds.iter().map(self.of))
            .with_context(|| format!("{} had no rounds", measured.name))
    }

    /// Ours, the first one, by each of the others: the median of what it is in each round, since what else the machine does
    /// changes from round to round.
    ///
    /// # Errors
    /// There were no rounds.
    pub(crate) fn ratios(&self, measured: &[Measured<R>]) -> Result<Vec<(String, f64)>> {
        let each = self.ratios_of_rounds(measured)?.into_iter();
        Ok(each.map(|(name, ratios)| (name, ratios.median())).collect())
    }

    fn ratios_of_rounds(&self, measured: &[Measured<R>]) -> Result<Vec<(String, Sorted)>> {
        let (ours, others) = measured.split_first().context("nothing was measured")?;
        let of_rounds = |other: &Measured<R>| {
            let rounds = ours.rounds.iter().zip(&other.rounds);
            let ratios = Sorted::new(rounds.map(|(own, other)| (self.of)(own) / (self.of)(other)));
            Ok((other.name.clone(), ratios.context("there were no rounds")?))
        };
        others.iter().map(of_rounds).collect()
    }
}

impl Table {
    /// A row for each figure: ours, which is the first one, and beside each of the others what it has to ours.
    ///
    /// # Errors
    /// There were no rounds.
    pub(crate) fn compare<R>(title: &str, figures: &[Figure<R>], measured: &[Measured<R>]) -> Result<Table> {
        let (ours, others) = measured.split_first().context("nothing was measured")?;
        let mut heads = vec![ours.name.clone()];
        for other in others {
            heads.extend([other.name.clone(), "×".to_owned()]);
        }
        let rows = figures.iter().map(|figure| {
            let mut row = vec![figure.name.to_owned(), cell(&figure.sorted(ours)?)];
            let ratios = figure.ratios_of_rounds(measured)?;
            for (other, (_, ratios)) in others.iter().zip(ratios) {
                row.extend([cell(&figure.sorted(other)?), ratio(&ratios)]);
            }
            Ok(row)
        });
        let title = format!(
            "{title}: median (least-most) of {} rounds; × is ours by theirs",
            ours.rounds.len()
        );
        Ok(Table {
            title,
            heads,
            rows: rows.collect::<Result<_>>()?,
        })
    }

    fn text(&self) -> String {
        let heads = std::iter::once("").chain(self.heads.iter().map(String::as_str));
        let lines: Vec<Vec<&str>> = std::iter::once(heads.collect())
            .chain(
                self.rows
                    .iter()
                    .map(|row| row.iter().map(String::as_str).collect()),
            )
            .collect();
        let columns = self.heads.len() + 1;
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for line in &lines {
            let cells = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    if column == 0 {
                        format!("{cell:width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("{}:\n\n| | {} |\n", self.title, self.heads.join(" | "));
        text.push_str(&format!("|---|{}\n", "---:|".repeat(self.heads.len())));
        self.rows.iter().for_each(|row| text.push_str(&line(row)));
        text
    }
}

impl Report {
    pub(crate) fn new(name: &str) -> Report {
        Report {
            name: name.to_owned(),
            ..Report::default()
        }
    }

    pub(crate) fn key(&mut self, key: impl Into<String>, value: f64) {
        self.keys.push((key.into(), value));
    }

    /// `bench NAME: key=value …`
    pub(crate) fn line(&self) -> String {
        let mut line = format!("bench {}:", self.name);
        for (key, value) in &self.keys {
            let decimals = if value.abs() < 100.0 { 2 } else { 0 };
            let _ = write!(line, " {key}={value:.decimals$}");
        }
        line
    }

    pub(crate) fn print(&self) {
        println!();
        for table in &self.tables {
            println!("{}", table.text());
        }
        println!("{}", self.line());
    }

    /// Takes the place of what this bench found before.
    ///
    /// # Errors
    /// The document is not there, or has no place for it.
    pub(crate) fn write(&self) -> Result<()> {
        let path = Path::new(DOCUMENT);
        let before = fs::read_to_string(path)
            .with_context(|| format!("cannot read {DOCUMENT}; run it in the project's folder"))?;
        fs::write(path, self.written_into(&before)?).with_context(|| format!("cannot write {DOCUMENT}"))
    }

    fn written_into(&self, document: &str) -> Result<String> {
        let (begin, end) = (
            format!("<!-- bench {} -->\n", self.name),
            format!("<!-- end of bench {} -->", self.name),
        );
        let places = document.split_once(&begin).and_then(|(head, rest)| {
            let (_, tail) = rest.split_once(&end)?;
            Some((head, tail))
        });
        ensure!(
            places.is_some(),
            "{DOCUMENT} has no place for `bench {}`",
            self.name
        );
        let (head, tail) = places.unwrap_or_default();
        let tables: Vec<String> = self.tables.iter().map(Table::markdown).collect();
        Ok(format!(
            "{head}{begin}\n{}\n`{}`\n\n{end}{tail}",
            tables.join("\n"),
            self.line()
        ))
    }
}

/// Nothing where there is nothing to compare with, as with requests that nobody has lost.
fn ratio(ratios: &Sorted) -> String {
    let [middle, least, most] = [ratios.median(), ratios.min(), ratios.max()];
    if [middle, least, most].iter().all(|ratio| ratio.is_finite()) {
        format!("{middle:.2} ({least:.2}-{most:.2})")
    } else {
        String::new()
    }
}

/// What is written in a cell: the median, and between which the rounds were.
pub(crate) fn cell(figures: &Sorted) -> String {
    format!(
        "{:.1} ({:.1}-{:.1})",
        figures.median(),
        figures.min(),
        figures.max()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let measured =
            [("ours", [1.0, 2.0, 3.0]), ("theirs", [4.0, 4.0, 5.0])].map(|(name, rounds)| Measured {
                name: name.to_owned(),
                rounds: rounds.to_vec(),
            });
        let figure = Figure {
            name: "µs",
            of: |round| *round,
        };
        let mut report = Report::new("x");
        report.key("ratio", figure.ratios(&measured).unwrap()[0].1);
        report
            .tables
            .push(Table::compare("It", &[figure], &measured).unwrap());
        report
    }

    #[test]
    fn ours_stands_beside_theirs() {
        let report = report();
        assert_eq!(
            report.tables[0].text(),
            "It: median (least-most) of 3 rounds; × is ours by theirs\n\
             \x20            ours         theirs                 ×\n\
             µs  2.0 (1.0-3.0)  4.0 (4.0-5.0)  0.50 (0.25-0.60)\n"
        );
        assert_eq!(report.line(), "bench x: ratio=0.50");
    }

    #[test]
    fn a_section_takes_the_place_of_the_one_before() {
        let report = report();
        let document = "# Head\n<!-- bench x -->\nold\n<!-- end of bench x -->\ntail\n";
        let once = report.written_into(document).unwrap();
        assert!(once.starts_with("# Head\n<!-- bench x -->\n"), "{once}");
        assert!(
            once.ends_with("`bench x: ratio=0.50`\n\n<!-- end of bench x -->\ntail\n"),
            "{once}"
        );
        assert!(
            !once.contains("old")
                && once.contains("| µs | 2.0 (1.0-3.0) | 4.0 (4.0-5.0) | 0.50 (0.25-0.60) |")
        );
        assert_eq!(report.written_into(&once).unwrap(), once);
        assert!(report.written_into("# Head\n").is_err());
    }
}
