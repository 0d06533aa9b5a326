//! Between the engine's requests and answers and the native protocol's messages.

use dure_engine::{
    Due, ReadError, RequestError, Response, SETTLE_ITEMS_MAX, Settle, SettleAction, SettleItem, Settled,
};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode, Retry};
use dure_proto::{Epoch, LeaseToken, Offset, PartitionId, Receipt};

use crate::authorize::Denied;

/// What is kept of a reason, in bytes.
const REASON_BYTES_MAX: usize = 1024;

pub(super) fn error_message(error: &RequestError) -> wire::Error {
    message(error.code(), error.to_string(), error.retry())
}

pub(super) fn message(code: ErrorCode, message: String, retry: Retry) -> wire::Error {
    wire::Error { code: code.into(), message, retry: retry.into(), address: String::new() }
}

pub(super) fn denied(error: &Denied) -> wire::Error {
    message(ErrorCode::InvalidRequest, error.to_string(), Retry::Never)
}

pub(super) fn read_error(error: &ReadError) -> wire::Error {
    let (code, retry) = match error {
        ReadError::OutOfRange { .. } => (ErrorCode::OffsetOutOfRange, Retry::Never),
        ReadError::Disk { .. } => (ErrorCode::ReadFailed, Retry::Later),
    };
    message(code, error.to_string(), retry)
}

/// The body that answers a request. Dead letters and backups are answered elsewhere, with their bytes.
pub(super) fn response_body(response: Response) -> Body {
    match response {
        Response::Done => Body::Done(wire::Done {}),
        Response::Count(count) => Body::Count(wire::Count { count }),
        Response::Topics(topics) => Body::TopicDescriptions(wire::TopicDescriptions { topics }),
        Response::Producer { producer, epoch } => Body::InitProducerReply(wire::InitProducerReply {
            producer_id: producer.0,
            producer_epoch: epoch.into(),
        }),
        Response::Produced { base_offset, append_time_ms, duplicates } => {
            let base_offset = base_offset.0;
            Body::ProduceReply(wire::ProduceReply { base_offset, append_time_ms, due_ms: None, duplicates })
        }
        Response::Scheduled { due_ms, duplicates } => {
            let reply = wire::ProduceReply { due_ms: Some(due_ms), ..wire::ProduceReply::default() };
            Body::ProduceReply(wire::ProduceReply { duplicates, ..reply })
        }
        Response::Groups(groups) => Body::GroupDescriptions(wire::GroupDescriptions { groups }),
        Response::Settled(results) => {
            let results = results.into_iter().map(settle_result).collect();
            Body::SettleReply(wire::SettleReply { results })
        }
        Response::Joined(reply) => Body::JoinGroupReply(reply),
        Response::Backup(plan) => {
            Body::BackupReply(wire::BackupReply { bytes: plan.bytes(), commits: vec![plan.seq.0] })
        }
        Response::DeadLetters { more, .. } => {
            Body::DeadLetters(wire::DeadLetters { letters: Vec::new(), more })
        }
    }
}

/// When a batch enters its log.
pub(super) fn due(due: wire::produce::Due) -> Due {
    match due {
        wire::produce::Due::DelayMs(ms) => Due::After(ms),
        wire::produce::Due::DeliverAtMs(ms) => Due::At(ms),
    }
}

fn settle_result(result: Result<Settled, RequestError>) -> wire::SettleResult {
    match result {
        Ok(Settled { already }) => {
            wire::SettleResult { already_settled: already, ..wire::SettleResult::default() }
        }
        Err(error) => wire::SettleResult {
            already_settled: false,
            error: error.code().into(),
            message: error.to_string(),
        },
    }
}

pub(crate) fn settle(settle: wire::Settle) -> Result<Settle, RequestError> {
    let wire::Settle { topic, group, items } = settle;
    if items.len() > SETTLE_ITEMS_MAX {
        let found = items.len();
        return Err(RequestError::Invalid(format!(
            "{found} items in one settle, at most {SETTLE_ITEMS_MAX} are taken"
        )));
    }
    let items = items.into_iter().map(settle_item).collect::<Result<_, _>>()?;
    Ok(Settle { topic, group, items })
}

fn settle_item(item: wire::SettleItem) -> Result<SettleItem, RequestError> {
    let wire::SettleItem { action, partition, offset, epoch, counter, delay_ms, lease_ms, mut reason } = item;
    truncate(&mut reason, REASON_BYTES_MAX);
    let action = match wire::SettleAction::try_from(action) {
        Ok(wire::SettleAction::SettleAck) => SettleAction::Ack,
        Ok(wire::SettleAction::SettleAckUpTo) => SettleAction::AckUpTo,
        Ok(wire::SettleAction::SettleRelease) => SettleAction::Release { delay_ms, reason },
        Ok(wire::SettleAction::SettleReject) => SettleAction::Reject { reason },
        Ok(wire::SettleAction::SettleExtend) => SettleAction::Extend { lease_ms },
        Ok(wire::SettleAction::SettleStart) => SettleAction::Start,
        Err(_) => return Err(RequestError::Invalid(format!("unknown settle action {action}"))),
    };
    let token = LeaseToken { epoch: Epoch(epoch), counter };
    let receipt = Receipt { partition: PartitionId(partition), offset: checked_offset(offset)?, token };
    Ok(SettleItem { receipt, action })
}

pub(super) fn checked_offset(offset: u64) -> Result<Offset, RequestError> {
    let largest = Offset::MAX;
    match Offset(offset) {
        offset if offset <= largest => Ok(offset),
        _ => Err(RequestError::Invalid(format!("offset {offset} is larger than the largest, {largest}"))),
    }
}

/// Cuts text to at most `bytes_max`, between two characters.
pub(super) fn truncate(text: &mut String, bytes_max: usize) {
    let fits = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(fits.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut text = "é".repeat(600);
        truncate(&mut text, REASON_BYTES_MAX);
        assert_eq!((text.len(), text.chars().count()), (1024, 512));
        let mut text = format!("x{}", "é".repeat(600));
        truncate(&mut text, REASON_BYTES_MAX);
        assert_eq!(text.len(), 1023);
    }

    #[test]
    fn too_many_items_and_unknown_actions_are_refused() {
        let item = |action| wire::SettleItem { action, ..wire::SettleItem::default() };
        let request = |items| wire::Settle { topic: "t".into(), group: "g".into(), items };
        assert!(settle(request(vec![item(0); SETTLE_ITEMS_MAX])).is_ok());
        assert!(settle(request(vec![item(0); SETTLE_ITEMS_MAX + 1])).is_err());
        assert!(settle(request(vec![item(99)])).is_err());
        let beyond = wire::SettleItem { offset: u64::MAX, ..wire::SettleItem::default() };
        assert!(settle(request(vec![beyond])).is_err());
    }
}
