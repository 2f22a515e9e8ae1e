//! Which lines of a batch file are this process's: every N-th, where a scheduler runs N of us.

use std::env;
use std::str::FromStr;

/// Share `index` of `count`: the requests whose number leaves this remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

/// For each scheduler the variables of a task's index and of the number of tasks.
const SCHEDULERS: [(&str, &str); 4] = [
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
    ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
];

impl Shard {
    /// Whether request number `request` is in this share.
    pub fn holds(self, request: usize) -> bool {
        request % self.count == self.index
    }

    fn new(index: usize, count: usize) -> Result<Self, String> {
        match index < count {
            true => Ok(Self { index, count }),
            false => Err(format!(
                "share {index} of {count}: shares are numbered from 0"
            )),
        }
    }

    /// The share that a scheduler's environment says.
    fn from_environment() -> Result<Self, String> {
        if let Some(index) = number("SLURM_ARRAY_TASK_ID") {
            return slurm_array(index);
        }
        let found = SCHEDULERS
            .iter()
            .find_map(|(index, count)| number(index).zip(number(count)));
        let (index, count) = found.ok_or(
            "no scheduler's variables are set (Slurm, AWS Batch, SkyPilot, Cloud Run): give the share as I/N",
        )?;
        Self::new(index, count)
    }
}

/// An array job's tasks may be numbered from anywhere, in steps, but must be all there.
fn slurm_array(index: usize) -> Result<Shard, String> {
    let variable =
        |name: &str| number(name).ok_or_else(|| format!("{name} is not set to a number"));
    let count = variable("SLURM_ARRAY_TASK_COUNT")?;
    let (first, last) = (
        variable("SLURM_ARRAY_TASK_MIN")?,
        variable("SLURM_ARRAY_TASK_MAX")?,
    );
    let step = number("SLURM_ARRAY_TASK_STEP").unwrap_or(1).max(1);
    if last < first || index < first || (last - first) / step + 1 != count {
        return Err("this Slurm array has gaps, so shares cannot be told from its indices: give the share as I/N".into());
    }
    Shard::new((index - first) / step, count)
}

fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok()
}

impl FromStr for Shard {
    type Err = String;

    /// Reads `I/N`, or `auto` for what a scheduler says.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Self::from_environment();
        }
        let parts = text
            .split_once('/')
            .and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        let (index, count) = parts.ok_or("expected I/N, such as 0/4, or auto")?;
        Self::new(index, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_disjoint_and_complete() {
        let shares: Vec<Shard> = ["0/3", "1/3", "2/3"]
            .map(|text| text.parse().unwrap())
            .into();
        for request in 0..10 {
            assert_eq!(
                shares.iter().filter(|share| share.holds(request)).count(),
                1
            );
        }
        for bad in ["3/3", "0/0", "1", "a/2", "-1/2", ""] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }
}
