//! What is kept in the repository, and how it compares with what was counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::count::{Circumstances, Count};

/// A path may cost so much more than what is kept.
pub(crate) const CHANGE_PERCENT_MAX: f64 = 5.0;

/// `results/instructions.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// By what valgrind shows of the processor.
    processors: BTreeMap<String, OfProcessor>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct OfProcessor {
    versions: String,
    instructions_per_operation: BTreeMap<String, Count>,
}

/// What comparing found out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Findings {
    /// Nothing is kept of such a processor, but of these.
    OtherProcessor { kept: Vec<String> },
    /// By path.
    Compared { of_versions: String, verdicts: BTreeMap<String, Verdict> },
}

/// What is to be said of one path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Counted, and not kept.
    Unknown,
    /// Kept, and not counted.
    Missing,
    /// Counted beside what is kept; the change in percent.
    Change { kept: Count, percent: f64 },
}

impl Verdict {
    /// Whether a change with this in it must not land.
    pub(crate) fn fails(self) -> bool {
        match self {
            Verdict::Unknown => false,
            Verdict::Missing => true,
            Verdict::Change { percent, .. } => percent > CHANGE_PERCENT_MAX,
        }
    }

    /// Whether what is kept says too much by now.
    pub(crate) fn is_cheaper(self) -> bool {
        matches!(self, Verdict::Change { percent, .. } if percent < -CHANGE_PERCENT_MAX)
    }
}

impl Kept {
    pub(crate) fn read() -> Result<Kept, String> {
        let path = file();
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Kept::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    pub(crate) fn write(&self) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).expect("numbers and names");
        let path = file();
        std::fs::write(&path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Only counts of the same kind of processor are compared.
    pub(crate) fn compare<'a>(
        &self,
        here: &Circumstances,
        counted: impl Iterator<Item = (&'a str, Count)>,
    ) -> Findings {
        let Some(kept) = self.processors.get(&here.processor) else {
            return Findings::OtherProcessor { kept: self.processors.keys().cloned().collect() };
        };
        let missing = kept.instructions_per_operation.keys().map(|name| (name.clone(), Verdict::Missing));
        let mut verdicts: BTreeMap<String, Verdict> = missing.collect();
        for (name, count) in counted {
            let before = kept.instructions_per_operation.get(name).copied();
            let verdict = before.map_or(Verdict::Unknown, |kept| Verdict::Change {
                kept,
                percent: (count / kept - 1.0) * 100.0,
            });
            verdicts.insert(name.to_owned(), verdict);
        }
        Findings::Compared { of_versions: kept.versions.clone(), verdicts }
    }

    /// What is kept of this kind of processor from now on; that of others stays.
    pub(crate) fn replace<'a>(
        &mut self,
        here: &Circumstances,
        counted: impl Iterator<Item = (&'a str, Count)>,
    ) {
        let rounded = counted.map(|(name, count)| (name.to_owned(), (count * 100.0).round() / 100.0));
        let instructions_per_operation = rounded.collect();
        let of_processor = OfProcessor { versions: here.versions.clone(), instructions_per_operation };
        self.processors.insert(here.processor.clone(), of_processor);
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results/instructions.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Circumstances {
        Circumstances { processor: "x86_64 sse4.2".into(), versions: "rustc 1".into() }
    }

    fn kept(counts: &[(&str, Count)]) -> Kept {
        let mut kept = Kept::default();
        kept.replace(&here(), counts.iter().copied());
        kept
    }

    fn verdict(kept: Count, counted: Count) -> Verdict {
        let findings = self::kept(&[("a", kept)]).compare(&here(), [("a", counted)].into_iter());
        let Findings::Compared { verdicts, .. } = findings else { panic!("of the same processor") };
        verdicts["a"]
    }

    #[test]
    fn what_is_more_than_five_percent_above_fails() {
        assert!(verdict(1_000.0, 1_051.0).fails());
        for counted in [1_049.0, 1_000.0, 949.0, 10.0] {
            assert!(!verdict(1_000.0, counted).fails(), "{counted}");
        }
    }

    #[test]
    fn what_is_more_than_five_percent_below_is_said_and_does_not_fail() {
        assert!(verdict(1_000.0, 949.0).is_cheaper());
        assert!(!verdict(1_000.0, 951.0).is_cheaper());
    }

    #[test]
    fn a_path_that_is_not_counted_any_more_fails_and_one_that_is_new_does_not() {
        let findings = kept(&[("a", 1.0), ("b", 1.0)]).compare(&here(), [("b", 1.0), ("c", 1.0)].into_iter());
        let Findings::Compared { verdicts, .. } = findings else { panic!("of the same processor") };
        assert_eq!((verdicts["a"], verdicts["c"]), (Verdict::Missing, Verdict::Unknown));
        assert_eq!(verdicts.values().filter(|verdict| verdict.fails()).count(), 1);
    }

    #[test]
    fn counts_of_another_processor_are_not_compared_and_stay() {
        let other = Circumstances { processor: "x86_64 avx2".into(), ..here() };
        let mut kept = kept(&[("a", 1.0)]);
        let findings = kept.compare(&other, [("a", 9.0)].into_iter());
        assert_eq!(findings, Findings::OtherProcessor { kept: vec![here().processor] });
        kept.replace(&other, [("a", 9.0)].into_iter());
        assert!(matches!(kept.compare(&here(), std::iter::empty()), Findings::Compared { .. }));
        assert_eq!(kept.processors.len(), 2);
    }

    #[test]
    fn what_the_repository_keeps_can_be_read() {
        let kept = Kept::read().expect("it parses");
        assert!(!kept.processors.is_empty(), "something is kept");
    }
}
