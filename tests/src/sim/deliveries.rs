//! What workers are given: by whom it may be had, whether it is the right attempt, in time and in order, and no more than
//! was asked for.

use dure_engine::{
    ConnectionId, Deliver, DeliverTo, Input, LeaseGrant, ReplyTo, Request, Sent, SubscriptionId,
};
use dure_proto::wire;

use super::model::{SubscriptionKey, read_value};
use super::workload::Op;
use super::world::{Held, World};
use super::{Checked, Violation, ensure};

impl World {
    pub(super) fn delivered(&mut self, deliver: Deliver) -> Checked {
        let Deliver { connection, target, leases } = deliver;
        let (subscription, (group, topic)) = match target {
            DeliverTo::Subscription(subscription) => {
                let key = (connection, subscription);
                let Some(of) = self.subscriptions.get_mut(&key) else {
                    return Err(Violation(format!("a delivery to {key:?}, which has ended")));
                };
                let count = leases.len() as u64;
                let Some(credit) = of.credit_messages.checked_sub(count) else {
                    let wants = of.credit_messages;
                    return Err(Violation(format!("{count} messages for {key:?}, which wants {wants}")));
                };
                of.credit_messages = credit;
                (Some(key), (of.group.clone(), of.topic.clone()))
            }
            DeliverTo::Receive(correlation) => {
                let Some(Op::Receive { group, topic }) =
                    self.asked.remove(&ReplyTo { connection, correlation })
                else {
                    return Err(Violation(format!(
                        "a delivery to receive {correlation}, which nobody waits for"
                    )));
                };
                (None, (group, topic))
            }
        };
        *self.totals.operations.entry("messages delivered").or_default() += leases.len() as u64;
        for lease in &leases {
            self.leased(lease, &group, &topic, subscription)?;
        }
        if let Some((connection, subscription)) = subscription {
            self.send_some_of(connection, subscription, leases.len());
        }
        Ok(())
    }

    /// What reads and sends messages says what they took, and that the last ones did not fit: those go back, unstarted.
    fn send_some_of(&mut self, connection: ConnectionId, subscription: SubscriptionId, count: usize) {
        let back = if self.rng.u8(0..4) == 0 { self.rng.usize(0..=count) } else { 0 };
        let sent = Sent {
            messages: (count - back) as u32,
            bytes: self.rng.u64(0..1_000),
            back: back as u32,
            need_bytes: if back > 0 { self.rng.u64(1..1_000) } else { 0 },
        };
        let request = Request::QueueSent { subscription, sent };
        self.note(format_args!("tell {connection:?} {request:?}"));
        let reply_to = ReplyTo { connection, correlation: 0 };
        self.handle(Input::Request { reply_to, request });
        if let Some(of) = self.subscriptions.get_mut(&(connection, subscription)) {
            of.credit_messages += back as u64;
        }
        let unfit = self.held.split_off(self.held.len() - back);
        self.send_back(&unfit);
    }

    fn leased(
        &mut self,
        lease: &LeaseGrant,
        group: &str,
        topic: &str,
        subscription: Option<SubscriptionKey>,
    ) -> Checked {
        let LeaseGrant { partition, offset, token, attempt, lease_ms, .. } = *lease;
        self.note(format_args!(
            "lease {partition} {offset} to {subscription:?} of {group}: {token:?}, attempt {attempt}, {lease_ms} ms"
        ));
        ensure!(self.model.tokens.insert(token), "lease token {token:?} was given out twice");
        self.check_bytes(lease)?;
        self.check_in_time(group, lease)?;
        let now = self.now;
        let model = self.model.groups.entry(group.to_owned()).or_default();
        let shape = model.shape.now.as_ref().and_then(|shape| shape.queue.as_ref());
        let attempts_max = shape.map_or(u32::MAX, |queue| queue.attempts_max);
        let by_key = shape.is_some_and(|queue| queue.ordering() == wire::Ordering::Key && queue.hold);
        let part = model.parts.entry(partition).or_default();
        part.granted(lease, subscription, attempts_max, now.mono_ms)?;
        if by_key && !self.damaged && !self.is_purging(topic) {
            self.model.check_key_order(group, partition, offset, now)?;
        }
        self.grants_open.push((group.to_owned(), partition, offset, token));
        let (group, topic) = (group.to_owned(), topic.to_owned());
        self.held.push(Held { group, topic, partition, offset, token });
        Ok(())
    }

    /// Messages go that nobody settled.
    fn is_purging(&self, topic: &str) -> bool {
        self.model.topics.get(topic).is_none_or(|topic| topic.purging)
            || self.purged.iter().any(|name| name == topic)
    }

    /// What was leased can be read, and is what was produced.
    fn check_bytes(&mut self, lease: &LeaseGrant) -> Checked {
        let (partition, offset) = lease.bytes_at;
        if self.rng.u8(0..3) > 0 || self.damaged {
            return Ok(());
        }
        let Some(view) = self.views.get(&partition) else {
            return Err(Violation(format!("{partition} is leased from, and readers do not see it")));
        };
        let Some(found) = read_value(view, offset)? else { return Ok(()) };
        ensure!(
            self.model.fits(lease.partition, lease.offset, found.as_ref()),
            "message {} of {} is not what was produced: {found:?}",
            lease.offset,
            lease.partition
        );
        Ok(())
    }
}
