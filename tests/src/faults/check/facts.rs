//! What both halves of the checker look up: who sent what, what was seen where, and when there was a fault.

use std::collections::HashMap;

use super::{Kind, Violation};
use crate::faults::history::{At, Event, Found, Id, Outcome, Place, What};

/// How a message was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) topic: &'static str,
    pub(super) begun: At,
    pub(super) outcome: Outcome,
}

/// A place where a message was seen: the broker vouched for it then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) place: Place,
    pub(super) id: Id,
    pub(super) at: At,
    pub(super) acked: bool,
}

#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) sent: HashMap<Id, Sent>,
    pub(super) at: HashMap<Place, Id>,
    pub(super) seen: Vec<Seen>,
    faults: Vec<(At, At)>,
    died: HashMap<u32, At>,
}

impl Facts {
    pub(super) fn gather(events: &[Event], found: &mut Vec<Violation>) -> Facts {
        let mut facts = Facts::default();
        for event in events {
            match &event.what {
                What::Produce { id, topic, outcome, .. } => {
                    let sent = Sent { topic, begun: event.begun, outcome: *outcome };
                    assert!(facts.sent.insert(*id, sent).is_none(), "the load sends every message once");
                }
                What::Fault { .. } => facts.faults.push((event.begun, event.ended)),
                What::WorkerDied { worker } => drop(facts.died.insert(*worker, event.begun)),
                _ => {}
            }
        }
        let mut places = HashMap::new();
        for event in events {
            match &event.what {
                What::Produce { id, place: Some(place), outcome: Outcome::Ok, .. } => {
                    facts.see(*place, Found::Intact(*id), event, Some(true), &mut places, found);
                }
                What::Read { place, found: what, .. } | What::Deliver { place, found: what, .. } => {
                    facts.see(*place, *what, event, Some(false), &mut places, found);
                }
                What::Letter { place, found: what, .. } => {
                    facts.see(*place, *what, event, None, &mut places, found);
                }
                What::Log { topic, partition, records, .. } => {
                    for (offset, what) in records {
                        let place = Place { topic, partition: *partition, offset: *offset };
                        facts.see(place, *what, event, None, &mut places, found);
                    }
                }
                _ => {}
            }
        }
        facts
    }

    /// `vouched`: it has to stay from now on; true if it was acknowledged.
    fn see(
        &mut self,
        place: Place,
        what: Found,
        event: &Event,
        vouched: Option<bool>,
        places: &mut HashMap<Id, Place>,
        found: &mut Vec<Violation>,
    ) {
        let mut report = |kind, id, text| found.push(Violation { kind, text, place: Some(place), id });
        let id = match what {
            Found::Intact(id) => id,
            Found::Altered(id) => {
                return report(
                    Kind::Altered,
                    Some(id),
                    "its key or its value is not what was sent".to_owned(),
                );
            }
            Found::Foreign => {
                return report(Kind::Phantom, None, "no producer makes such a message".to_owned());
            }
        };
        match self.sent.get(&id) {
            None => report(Kind::Phantom, Some(id), "nobody sent it".to_owned()),
            Some(sent) if sent.topic != place.topic => {
                report(Kind::Phantom, Some(id), format!("it was sent to {}", sent.topic));
            }
            Some(sent) if sent.begun > event.ended => {
                report(Kind::Phantom, Some(id), "it was seen before it was sent".to_owned());
            }
            Some(Sent { outcome: Outcome::Fail, .. }) => {
                report(Kind::Phantom, Some(id), "it was refused".to_owned());
            }
            Some(_) => {}
        }
        match self.at.insert(place, id) {
            Some(other) if other != id => {
                report(Kind::TwoValues, Some(id), format!("{other} was there, too"))
            }
            _ => {}
        }
        match places.insert(id, place) {
            Some(other)
                if other != place
                    && !found.iter().any(|v| v.id == Some(id) && v.kind == Kind::Duplicated) =>
            {
                let text = format!("it is at {other}, too");
                found.push(Violation { kind: Kind::Duplicated, text, place: Some(place), id: Some(id) });
            }
            _ => {}
        }
        if let Some(acked) = vouched {
            self.seen.push(Seen { place, id, at: event.ended, acked });
        }
    }

    /// Whether there was a fault between these moments.
    pub(super) fn disturbed(&self, from: At, to: At) -> bool {
        self.faults.iter().any(|(begun, ended)| *begun <= to && from <= *ended)
    }

    /// Whether a worker had vanished by then.
    pub(super) fn died(&self, worker: u32, by: At) -> bool {
        self.died.get(&worker).is_some_and(|died| *died <= by)
    }
}
