//! What is learned from the answers.

use dure_engine::{ConnectionId, ReplyTo, RequestError, Response};
use dure_proto::{TopicId, wire};

use super::Op;
use crate::sim::model::{Fate, Member, Session};
use crate::sim::world::World;
use crate::sim::{Checked, Violation, ensure};

type Answer = Result<Response, RequestError>;

/// Whether the broker may have done it all the same.
fn is_unknown(answer: &Answer) -> bool {
    matches!(answer, Err(RequestError::ShardStopped(_)))
}

impl World {
    pub(crate) fn answered(&mut self, to: ReplyTo, answer: Answer) -> Checked {
        let Some(op) = self.asked.remove(&to) else {
            // Its connection is closed: nobody waits any more.
            return Ok(());
        };
        if !matches!(op, Op::Question) {
            let text = match &answer {
                Ok(response) => format!("{response:?}"),
                Err(error) => format!("refused: {error}"),
            };
            self.note(format_args!("answer {} {text}", to.correlation));
        }
        if is_unknown(&answer) {
            if matches!(op, Op::Backup) {
                self.backup_named(None);
            }
            self.count("answers lost to a stop");
            return Ok(());
        }
        match op {
            Op::Question => match answer {
                Ok(response) => self.keep_answer(to, response),
                Err(error) => return Err(Violation(format!("a question was refused: {error}"))),
            },
            Op::Backup => self.backup_named(match answer {
                Ok(Response::Backup(plan)) => Some(plan),
                _ => None,
            }),
            Op::Topic { name } => self.topic_answered(&name, &answer),
            Op::DeleteTopic { name } => self.topic_deleted(&name, &answer),
            Op::PurgeTopic { name } => self.topic_purged(name, &answer),
            Op::InitProducer { session } => return self.session_opened(session, &answer),
            Op::Produce { batch } => return self.produced(batch, &answer),
            Op::Group { name } => self.group_answered(&name, &answer),
            Op::DeleteGroup { name } => {
                let done = answer.is_ok();
                let group = self.model.groups.get_mut(&name).expect("it was asked for");
                group.shape.resolve(done);
                if done {
                    self.model.forget_group(&name);
                }
                self.count(if done { "groups deleted" } else { "group changes refused" });
            }
            Op::SeekGroup { name, partitions } => {
                self.seek_begins_or_ends(&name, &partitions);
                self.moved(&name, if answer.is_ok() { "seeks" } else { "seeks refused" });
            }
            Op::Letters { name, partitions } => {
                self.letters_move(&name, &partitions);
                let done = answer.is_ok();
                self.moved(&name, if done { "dead letters redriven or purged" } else { "redrives refused" });
            }
            Op::Receive { .. } => self.count("receives refused"),
            Op::Subscribe { key } => {
                self.unsubscribed(key);
                self.count("subscriptions refused");
            }
            Op::Settle { group, instance, items } => return self.settled(&group, instance, &items, answer),
            Op::Join { group, connection } => self.joined(group, connection, answer),
            Op::Heartbeat { member, replaced } | Op::Leave { member, replaced } => {
                ensure!(answer.is_err() || !replaced, "{member:?} was replaced, and is listened to");
                if answer.is_err() {
                    self.member_is_gone(&member, replaced);
                }
                self.count("heartbeats and leaves");
            }
            Op::Commit { instance, member, replaced, offsets } => match answer {
                Ok(_) => {
                    ensure!(!replaced, "{member:?} was replaced, and commits");
                    self.count("offset commits");
                    let group = self.model.groups.get_mut(&member.group).expect("it was committed to");
                    for (partition, offset) in offsets.iter().filter(|_| group.instance == instance) {
                        let committed = group.committed.entry(*partition).or_default();
                        committed.acked = committed.acked.max(*offset);
                    }
                }
                Err(_) => self.member_is_gone(&member, replaced),
            },
        }
        Ok(())
    }

    fn topic_answered(&mut self, name: &str, answer: &Answer) {
        let topic = self.model.topics.get_mut(name).expect("it was asked for");
        topic.shape.resolve(answer.is_ok());
        if answer.is_ok() {
            topic.id = self.topics.by_name(name).map(|topic| topic.id).or(topic.id);
        }
        self.count(if answer.is_ok() { "topics created or altered" } else { "topic changes refused" });
    }

    fn topic_deleted(&mut self, name: &str, answer: &Answer) {
        let topic = self.model.topics.get_mut(name).expect("it was asked for");
        topic.shape.resolve(answer.is_ok());
        if answer.is_ok() {
            let id = topic.id.take();
            id.into_iter().for_each(|id| self.model.forget_topic(id));
            self.count("topics deleted");
        }
    }

    /// After a recovery: forgets topics that are not there any more.
    pub(crate) fn forget_deleted_topics(&mut self) {
        let known: Vec<TopicId> = self.model.logs.keys().map(|partition| partition.topic).collect();
        for topic in known {
            if self.topics.by_id(topic).is_none() {
                self.model.forget_topic(topic);
            }
        }
    }

    fn topic_purged(&mut self, name: String, answer: &Answer) {
        self.model.topics.get_mut(&name).expect("it was asked for").purging = false;
        if answer.is_ok() {
            self.count("topics purged");
            self.purged.push(name);
        }
    }

    fn session_opened(&mut self, session: usize, answer: &Answer) -> Checked {
        if let Ok(Response::Producer { producer, .. }) = answer {
            ensure!(self.model.producers.insert(*producer), "producer {producer} was given out twice");
            self.model.sessions[session] = Session { producer: Some(*producer), ..Session::default() };
            self.count("producer sessions");
        }
        Ok(())
    }

    fn produced(&mut self, id: u64, answer: &Answer) -> Checked {
        let now = self.now.wall_ms;
        let batch = self.model.batches.get_mut(&id).expect("it was sent");
        let (partition, stamped) = (batch.partition, batch.stamped);
        match answer {
            Ok(Response::Scheduled { due_ms, .. }) => {
                let earliest_ms = batch.delay.map(|delay| delay.due_ms);
                ensure!(
                    earliest_ms.is_some_and(|earliest_ms| earliest_ms <= *due_ms)
                        || batch.fate == Fate::Scheduled,
                    "batch {id} is said to be due at {due_ms}, and should be at {earliest_ms:?}"
                );
                ensure!(
                    !matches!(batch.fate, Fate::Acked(_)),
                    "batch {id} was acknowledged as {:?} and, sent again, waits",
                    batch.fate
                );
                batch.fate = Fate::Scheduled;
                self.session_acked(partition, id);
                self.count("batches that wait");
            }
            Ok(Response::Produced { base_offset, append_time_ms, duplicates }) => {
                self.duplicates_named(id, duplicates)?;
                let batch = self.model.batches.get_mut(&id).expect("it was sent");
                ensure!(
                    batch.fate != Fate::Scheduled,
                    "batch {id} waited and, sent again, is at {base_offset} of {partition}"
                );
                if let Fate::Acked(before) = batch.fate {
                    ensure!(
                        before == *base_offset,
                        "batch {id} was acknowledged at {before} and, sent again, at {base_offset}"
                    );
                }
                batch.fate = Fate::Acked(*base_offset);
                batch.acked_with.get_or_insert(self.told_commit);
                let place = batch.place.expect("it was sent");
                let delayed = batch.delay.is_some();
                let (records, append_ms) = (batch.values.len() as u32, (*append_time_ms).min(now));
                let log = self.model.logs.entry(partition).or_default();
                if records > 0 {
                    log.place(*base_offset, id, records, append_ms)?;
                }
                if !delayed && records > 0 {
                    log.place_in_order(*base_offset, place)?;
                }
                self.session_acked(partition, id);
                self.count(if stamped { "batches produced in sessions" } else { "batches produced" });
            }
            Ok(other) => return Err(Violation(format!("a produce was answered with {other:?}"))),
            Err(error @ (RequestError::OutOfOrderSequence { .. } | RequestError::UnknownProducer(_))) => {
                let gave_up = matches!(batch.fate, Fate::Acked(_));
                ensure!(
                    self.session_refused(partition, id) && !gave_up,
                    "batch {id} of {partition} was refused: {error}"
                );
                self.count("batches refused behind one that was");
            }
            Err(error @ (RequestError::Invalid(_) | RequestError::MessageTooLarge { .. })) => {
                return Err(Violation(format!("batch {id} of {partition} was refused: {error}")));
            }
            Err(_) => {
                if !stamped {
                    batch.fate = Fate::Refused;
                }
                self.session_refused(partition, id);
                self.count("batches refused");
            }
        }
        Ok(())
    }

    fn group_answered(&mut self, name: &str, answer: &Answer) {
        let group = self.model.groups.get_mut(name).expect("it was asked for");
        group.shape.resolve(answer.is_ok());
        self.count(if answer.is_ok() { "groups created" } else { "group changes refused" });
    }

    fn moved(&mut self, group: &str, what: &'static str) {
        self.model.groups.get_mut(group).expect("it was asked for").moving = false;
        self.count(what);
    }

    fn settled(
        &mut self,
        name: &str,
        instance: u32,
        items: &[(dure_proto::TopicPartition, crate::sim::model::SettledItem)],
        answer: Answer,
    ) -> Checked {
        let results = match answer {
            Ok(Response::Settled(results)) => results,
            Ok(other) => return Err(Violation(format!("a settle was answered with {other:?}"))),
            Err(_) => {
                self.count("settles refused");
                return Ok(());
            }
        };
        ensure!(results.len() == items.len(), "{} results for {} items", results.len(), items.len());
        for ((partition, item), result) in items.iter().zip(&results) {
            self.count(match (result, &item.action) {
                (Err(_), _) => "messages not settled",
                (Ok(_), dure_engine::SettleAction::Ack) => "messages acknowledged",
                (Ok(_), dure_engine::SettleAction::AckUpTo) => "times that all before were acknowledged",
                (Ok(_), dure_engine::SettleAction::Reject { .. }) => "messages rejected",
                (Ok(_), _) => "messages released, extended or started",
            });
            let group = self.model.groups.get_mut(name).expect("it was settled in");
            if group.instance != instance {
                continue;
            }
            group.parts.entry(*partition).or_default().answered(item, result)?;
            if result.is_ok() {
                self.holds.push((name.to_owned(), *partition));
            }
        }
        Ok(())
    }

    fn joined(&mut self, group: String, connection: ConnectionId, answer: Answer) {
        if let Ok(Response::Joined(joined)) = answer {
            self.count("members joined");
            let assignment = self.assignments.remove(&(group.clone(), joined.member.clone()));
            let (name, claim) = (joined.member, joined.claim);
            self.model.members.push(Member { group, connection, name, claim, assignment });
        }
    }

    pub(crate) fn assigned(&mut self, connection: ConnectionId, assignment: wire::Assignment) {
        self.note(format_args!("assign {connection:?} {assignment:?}"));
        let mut members = self.model.members.iter_mut();
        // Of several under one name it is for the one that came last.
        match members.rfind(|member| {
            member.name == assignment.member
                && member.group == assignment.group
                && member.connection == connection
        }) {
            Some(member) => member.assignment = Some(assignment),
            // It comes before the answer to the join, which waits for the disk.
            None => {
                let member = (assignment.group.clone(), assignment.member.clone());
                self.assignments.insert(member, assignment);
            }
        }
    }

    fn member_is_gone(&mut self, gone: &Member, replaced: bool) {
        let same = |member: &Member| {
            (&member.group, &member.name, member.claim) == (&gone.group, &gone.name, gone.claim)
        };
        self.model.members.retain(|member| !same(member));
        self.count(if replaced { "members replaced" } else { "members fenced or gone" });
    }
}
