//! The front half's side of the scrub: hands out files, believes findings that still hold. Not here: reading (`scrub`).

use super::Store;
use crate::segment::scrub::{ScrubFile, ScrubStats, Scrubber, Shared};
use crate::segment::segment_file::{self, SEGMENT_HEADER};
use crate::segment::types::*;
use std::sync::Arc;

/// Files handed out ahead.
const AHEAD: usize = 64;

/// Where the present pass stands.
#[derive(Default)]
pub(super) struct Scrubbing {
    pub(super) shared: Arc<Shared>,
    /// Groups still to be handed out in this pass, last first.
    left: Vec<GroupId>,
    is_running: bool,
}

impl Drop for Scrubbing {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Store {
    /// The half that reads; for a thread of its own.
    pub fn scrubber(&self) -> Scrubber {
        Scrubber::new(self.fs.clone(), self.scrub.shared.clone())
    }

    /// Begins a pass over everything, unless one is under way.
    pub fn begin_scrub(&mut self) {
        if !self.scrub.is_running {
            let mut left: Vec<GroupId> = self.groups.keys().copied().collect();
            left.sort_unstable_by(|a, b| b.cmp(a));
            self.scrub.left = left;
            self.scrub.is_running = true;
        }
    }

    /// Takes findings and hands out more; call it now and then. False when no pass is under way.
    pub fn tend_scrub(&mut self) -> bool {
        for finding in self.scrub.shared.take_findings() {
            let Some(g) = self.groups.get(&finding.group) else { continue };
            let holds = |f: &crate::segment::image::FileImage| {
                f.number == finding.file && f.first() <= finding.index && finding.index <= f.last.index
            };
            // Since it was handed out the file may have been cut, dropped or replaced.
            if finding.index >= g.image.first() && g.image.files.iter().any(holds) {
                self.damage.note(finding.group, finding.index, finding.index);
            }
        }
        while self.scrub.is_running && self.scrub.shared.waiting() < AHEAD {
            match self.scrub.left.pop() {
                Some(group) => self.hand_out(group),
                None if self.scrub.shared.waiting() > 0 => break,
                None => {
                    self.scrub.is_running = false;
                    self.scrub.shared.note_pass();
                }
            }
        }
        self.scrub.is_running
    }

    /// What has been scrubbed.
    pub fn scrub_stats(&self) -> ScrubStats {
        self.scrub.shared.stats()
    }

    fn hand_out(&mut self, group: GroupId) {
        let Some(g) = self.groups.get(&group) else { return };
        for (file, segment) in g.image.files.iter().zip(&g.segments) {
            let end = file.end.min(segment.written);
            if end > SEGMENT_HEADER {
                let path = segment_file::path(&self.options.dir, &g.image.dir, file.number);
                self.scrub.shared.push(ScrubFile { group, path, file: file.clone(), end });
            }
        }
    }
}
