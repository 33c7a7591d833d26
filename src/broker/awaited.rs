//! [`Awaited`]: partitions whose first leader was waited for in vain.
//!
//! Nobody waits for them again: one that cannot be led (it is damaged, or an operator has to decide) would else hold up everything behind each
//! Metadata that names it, for as long as it is so. Not here: the waiting (`handlers::metadata`, the only caller).
//! Invariant: no larger than the metadata's partitions.

use crate::ctl::image::Image;
use crate::segment::GroupId;
use std::collections::HashSet;

/// What this process has waited for.
#[derive(Default)]
pub(super) struct Awaited(HashSet<GroupId>);

impl Awaited {
    /// Leaves those that may be waited for.
    pub(super) fn take_out(&self, new: &mut Vec<GroupId>) {
        new.retain(|group| !self.0.contains(group));
    }

    /// These did not come.
    pub(super) fn note(&mut self, in_vain: impl Iterator<Item = GroupId>, image: &Image) {
        self.0.extend(in_vain);
        self.0.retain(|group| image.groups.contains_key(group));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_is_not_waited_for_again_where_it_did_not_come() {
        let mut image = Image::default();
        image.groups.insert(GroupId(10), (uuid::Uuid::nil(), 0));
        let mut awaited = Awaited::default();
        let mut new = vec![GroupId(10), GroupId(11)];
        awaited.take_out(&mut new);
        assert_eq!(new, [GroupId(10), GroupId(11)]);
        awaited.note([GroupId(10), GroupId(12)].into_iter(), &image);
        awaited.take_out(&mut new);
        assert_eq!(new, [GroupId(11)]);
        assert_eq!(awaited.0.len(), 1, "deleted ones are forgotten");
    }
}
