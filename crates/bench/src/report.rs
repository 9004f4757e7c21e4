//! The figures, as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::numbers::median;

/// One measured figure: the median of its rounds.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    rounds: Vec<f64>,
    goal: Option<Goal>,
}

#[derive(Debug, Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// What a ratio of two figures has for a unit.
pub(crate) const TIMES: &str = "×";

impl Figure {
    /// A figure without a goal, measured so in each round.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, rounds: &[f64]) -> Self {
        let (name, rounds) = (name.into(), rounds.to_vec());
        Self {
            name,
            unit,
            rounds,
            goal: None,
        }
    }

    /// The ratio of two medians.
    pub(crate) fn ratio(name: impl Into<String>, of: &[f64], to: &[f64]) -> Self {
        Self::new(name, TIMES, &[median(of) / median(to)])
    }

    /// To be this or more.
    pub(crate) fn at_least(self, goal: f64) -> Self {
        let goal = Some(Goal::AtLeast(goal));
        Self { goal, ..self }
    }

    /// To be this or less.
    pub(crate) fn at_most(self, goal: f64) -> Self {
        let goal = Some(Goal::AtMost(goal));
        Self { goal, ..self }
    }

    fn measured(&self) -> f64 {
        median(&self.rounds)
    }

    fn reached(&self) -> Option<bool> {
        self.goal.map(|goal| match goal {
            Goal::AtLeast(least) => self.measured() >= least,
            Goal::AtMost(most) => self.measured() <= most,
        })
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "figure": self.name, "measured": self.measured(), "unit": self.unit, "rounds": self.rounds,
        });
        if let (Some(goal), Some(reached)) = (self.goal, self.reached()) {
            json["goal"] = json!(goal.to_string());
            json["reached"] = json!(reached);
        }
        json
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

/// A line of the table.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, .. } = self;
        let measured = short(self.measured());
        write!(f, "{name:<64} {measured:>8} {unit}")?;
        if let (Some(goal), Some(reached)) = (self.goal, self.reached()) {
            let room = 14 - unit.chars().count().min(14);
            let reached = if reached { "reached" } else { "MISSED" };
            write!(f, "{:room$}{:<7} {reached}", "", goal.to_string())?;
        }
        Ok(())
    }
}

/// With as many digits as mean something.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        small if small < 1.0 => 3,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// What became of each scenario: its figures, or why there are none.
pub(crate) struct Report {
    machine: Value,
    scenarios: Vec<(String, Result<Vec<Figure>, String>)>,
}

impl Report {
    pub(crate) fn new(machine: Value) -> Self {
        let scenarios = Vec::new();
        Self { machine, scenarios }
    }

    pub(crate) fn add(&mut self, scenario: String, outcome: Result<Vec<Figure>, String>) {
        self.scenarios.push((scenario, outcome));
    }

    /// Whether every scenario could be measured.
    pub(crate) fn is_whole(&self) -> bool {
        self.scenarios.iter().all(|(_, outcome)| outcome.is_ok())
    }

    pub(crate) fn to_json(&self) -> Value {
        let scenario = |(name, outcome): &(String, Result<Vec<Figure>, String>)| match outcome {
            Ok(figures) => {
                let figures: Vec<Value> = figures.iter().map(Figure::to_json).collect();
                json!({"scenario": name, "figures": figures})
            }
            Err(reason) => json!({"scenario": name, "failed": reason}),
        };
        let scenarios: Vec<Value> = self.scenarios.iter().map(scenario).collect();
        json!({"machine": self.machine, "scenarios": scenarios})
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.machine.as_object().into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(f, "{name:<8} {value}")?;
        }
        for (name, outcome) in &self.scenarios {
            writeln!(f, "\n{name}")?;
            match outcome {
                Ok(figures) => figures.iter().try_for_each(|figure| writeln!(f, "  {figure}"))?,
                Err(reason) => writeln!(f, "  could not be measured: {reason}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_or_missed_by_the_median() {
        let rounds = [0.7, 0.9, 0.82];
        let least = |goal| Figure::new("rate", TIMES, &rounds).at_least(goal).to_json();
        assert_eq!(least(0.8)["reached"], true);
        assert_eq!(least(0.85)["reached"], false);
        let most = Figure::new("late", "s", &rounds).at_most(0.85);
        assert_eq!(most.to_json()["reached"], true);
        assert!(most.to_string().ends_with("≤ 0.85  reached"), "{most}");
        assert!(
            Figure::new("free", "s", &rounds)
                .to_json()
                .get("reached")
                .is_none()
        );
        assert_eq!(
            [short(1234.6), short(12.345), short(0.00123)],
            ["1235", "12.35", "0.001"]
        );
    }

    #[test]
    fn a_scenario_that_failed_does_not_take_the_others_with_it() {
        let mut report = Report::new(json!({"cores": 2}));
        report.add("storm".into(), Ok(vec![Figure::new("late", "s", &[1.0])]));
        report.add("idle".into(), Err("no broker".into()));
        assert!(!report.is_whole());
        let json = report.to_json();
        assert_eq!(json["scenarios"][0]["figures"][0]["measured"], 1.0);
        assert_eq!(json["scenarios"][1]["failed"], "no broker");
        assert!(report.to_string().contains("could not be measured: no broker"));
    }
}
