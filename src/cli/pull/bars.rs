//! Bars on a terminal: one for each image, and below it one for each of its layers that bytes come for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::control::{Counts, FillingLine};

const IMAGE: &str =
    "{prefix}\n  [{bar:30}] {binary_bytes:>10} of {binary_total_bytes:<10} {wide_msg}";
const LAYER: &str =
    "    {prefix:>15} [{bar:20}] {binary_bytes:>10} of {binary_total_bytes:<10} {wide_msg}";
const ALL: &str = "[{bar:34}] {pos} of {len} images, {elapsed_precise}";
const WAITING: &str = "{prefix}\n  {spinner} waiting for the upstream or for a turn, {elapsed}";

/// The bars of all images.
pub(super) struct Bars {
    multi: MultiProgress,
    all: Option<ProgressBar>,
    images: Mutex<HashMap<String, ImageBars>>,
}

struct ImageBars {
    whole: ProgressBar,
    begun: bool,
    layers: BTreeMap<usize, ProgressBar>,
}

/// A style that is known to be one.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

impl Bars {
    /// On stderr; of several images there is a bar for all too.
    pub(super) fn new(images: usize) -> Self {
        let multi = MultiProgress::new();
        let all = (images > 1).then(|| {
            let bar = multi.add(ProgressBar::new(images as u64).with_style(style(ALL)));
            bar.tick();
            bar
        });
        Self {
            multi,
            all,
            images: Mutex::default(),
        }
    }

    pub(super) const fn multi(&self) -> &MultiProgress {
        &self.multi
    }

    /// Nothing is known of an image yet.
    pub(super) fn waiting(&self, image: &str) {
        let mut images = self.lock();
        self.image(&mut images, image).whole.tick();
    }

    /// Shows how far an image is; `pace` is its rate and the time left.
    pub(super) fn filling(&self, filling: &FillingLine, pace: &str) {
        let mut images = self.lock();
        let bars = self.image(&mut images, &filling.image);
        if !bars.begun {
            bars.begun = true;
            bars.whole.set_style(style(IMAGE));
        }
        let all = &filling.all;
        let files = format!("{pace}, {} of {} files", all.files, all.total_files);
        put(&bars.whole, all, files);
        for (at, layer) in filling.layers.iter().enumerate() {
            let counts = &layer.counts;
            let over = layer.digest.is_some();
            if over || counts.there() == 0 {
                if let Some(bar) = bars.layers.remove(&at) {
                    self.take(&bar);
                }
                continue;
            }
            let above = bars.layers.range(..at).next_back();
            let above = above.map_or(&bars.whole, |(_, bar)| bar).clone();
            let bar = bars.layers.entry(at).or_insert_with(|| {
                let bar = ProgressBar::new(counts.total_bytes).with_style(style(LAYER));
                let bar = self.multi.insert_after(&above, bar);
                bar.set_prefix(format!("layer {} of {}", at + 1, filling.layers.len()));
                bar
            });
            let files = format!("{} of {} files", counts.files, counts.total_files);
            put(bar, counts, files);
        }
    }

    /// An image is done with.
    pub(super) fn ended(&self, image: &str) {
        if let Some(bars) = self.lock().remove(image) {
            bars.layers.values().for_each(|bar| self.take(bar));
            self.take(&bars.whole);
        }
        if let Some(all) = &self.all {
            all.inc(1);
        }
    }

    /// Takes all bars away.
    pub(super) fn clear(&self) {
        let mut images = self.lock();
        for bars in images.values() {
            bars.layers.values().for_each(|bar| self.take(bar));
            self.take(&bars.whole);
        }
        images.clear();
        if let Some(all) = &self.all {
            all.finish_and_clear();
        }
    }

    /// Takes a bar away, and its line with it.
    fn take(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        self.multi.remove(bar);
    }

    fn image<'a>(
        &self,
        images: &'a mut HashMap<String, ImageBars>,
        image: &str,
    ) -> &'a mut ImageBars {
        images.entry(image.to_owned()).or_insert_with(|| {
            let bar = ProgressBar::new(0).with_style(style(WAITING));
            let whole = match &self.all {
                Some(all) => self.multi.insert_before(all, bar),
                None => self.multi.add(bar),
            };
            whole.set_prefix(image.to_owned());
            ImageBars {
                whole,
                begun: false,
                layers: BTreeMap::new(),
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, ImageBars>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(bar: &ProgressBar, counts: &Counts, message: String) {
    bar.set_length(counts.total_bytes);
    bar.set_position(counts.there());
    bar.set_message(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_ones() {
        for template in [IMAGE, LAYER, ALL, WAITING] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
