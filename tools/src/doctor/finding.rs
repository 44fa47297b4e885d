//! What was found, and how it is shown.

use serde::Serialize;
use serde_json::json;

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Nothing is to be done.
    Ok,
    /// Worth knowing: it costs little here, cannot be seen from here, or has no remedy on this machine.
    Note,
    /// It costs something, and there is a remedy.
    Problem,
}

/// One line of the report. `id` is the same in every version; `cost` and `fix` are there unless the status is ok.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) id: &'static str,
    pub(super) status: Status,
    /// What was found.
    pub(super) value: String,
    /// What that costs.
    pub(super) cost: Option<String>,
    /// What mends it, or that nothing does.
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(id: &'static str, value: impl Into<String>) -> Finding {
        Finding { id, status: Status::Ok, value: value.into(), cost: None, fix: None }
    }

    pub(super) fn note(
        id: &'static str,
        value: impl Into<String>,
        cost: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        let (cost, fix) = (Some(cost.into()), Some(fix.into()));
        Finding { id, status: Status::Note, value: value.into(), cost, fix }
    }

    pub(super) fn problem(
        id: &'static str,
        value: impl Into<String>,
        cost: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding { status: Status::Problem, ..Finding::note(id, value, cost, fix) }
    }

    fn lines(&self, id_width: usize, colour: bool) -> String {
        let (word, escape) = match self.status {
            Status::Ok => ("ok", "\x1b[32m"),
            Status::Note => ("note", "\x1b[33m"),
            Status::Problem => ("problem", "\x1b[31m"),
        };
        let word = format!("{word:<8}");
        let word = if colour { format!("{escape}{word}\x1b[0m") } else { word };
        let mut lines = format!("{word} {:<id_width$}  {}", self.id, self.value);
        for (what, text) in [("costs", &self.cost), ("fix", &self.fix)] {
            if let Some(text) = text {
                lines += &format!("\n{:9}{what:<6} {text}", "");
            }
        }
        lines
    }
}

/// All findings, in the order in which they are shown.
pub(super) struct Report(pub(super) Vec<Finding>);

impl Report {
    pub(super) fn problems(&self) -> usize {
        self.count(Status::Problem)
    }

    fn count(&self, status: Status) -> usize {
        self.0.iter().filter(|finding| finding.status == status).count()
    }

    /// A line each, with cost and fix indented below it.
    pub(super) fn text(&self, colour: bool) -> String {
        let id_width = self.0.iter().map(|finding| finding.id.len()).max().unwrap_or(0);
        let mut lines: Vec<String> = self.0.iter().map(|finding| finding.lines(id_width, colour)).collect();
        lines.push(format!("problems: {}, notes: {}", self.problems(), self.count(Status::Note)));
        lines.join("\n")
    }

    /// One object on one line.
    pub(super) fn json(&self) -> String {
        let (problems, notes) = (self.problems(), self.count(Status::Note));
        json!({ "checks": self.0, "problems": problems, "notes": notes }).to_string()
    }
}

/// Bytes for a reader.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report(vec![
            Finding::ok("kernel", "6.18.0"),
            Finding::note("clock", "unknown", "little", "look"),
            Finding::problem("receive_buffer", "208 KiB", "bursts", "sysctl"),
        ])
    }

    #[test]
    fn lines_are_aligned_with_cost_and_fix_below() {
        let expected = "\
ok       kernel          6.18.0
note     clock           unknown
         costs  little
         fix    look
problem  receive_buffer  208 KiB
         costs  bursts
         fix    sysctl
problems: 1, notes: 1";
        assert_eq!(report().text(false), expected);
        let coloured = report().text(true);
        assert!(coloured.contains("\x1b[31mproblem \x1b[0m receive_buffer"), "{coloured:?}");
    }

    #[test]
    fn json_has_every_field_of_every_finding() {
        let expected = json!({
            "checks": [
                { "id": "kernel", "status": "ok", "value": "6.18.0", "cost": null, "fix": null },
                { "id": "clock", "status": "note", "value": "unknown", "cost": "little", "fix": "look" },
                { "id": "receive_buffer", "status": "problem", "value": "208 KiB", "cost": "bursts", "fix": "sysctl" },
            ],
            "problems": 1,
            "notes": 1,
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&report().json()).unwrap(), expected);
    }
}
