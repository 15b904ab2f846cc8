//! The page about it: written from the table, and compared with it.

use super::table::{Ends, Extra, Moment, ROWS};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md");

const HEAD: &str = "\
# When the upstream fails

<!-- Written by tests/it/faults: HF_OCI_WRITE_DOCS=1 cargo test --test it faults -->

Every cell of this table is a test: a fresh server meets the fault at that moment of a pull, from a simulated Hub with a CDN of its own.
After it, and after a second pull without the fault, the test compares every file of the image with the upstream's, every blob with its
digest, and sees that nothing else lies around.

| fault | ";

const TAIL: &str = "
* **ok**: the pull succeeds and no byte comes twice. **ok¹**: it succeeds, and at most the rest of the broken piece (8 MiB) comes again.
  **ok²**: it succeeds, and at most the file comes again. **ok³**: the same, and with the file what was read ahead of it in its layer,
  never more than `fill.memory`.
* **502**, **504** (`UNAVAILABLE`), **429** (`TOOMANYREQUESTS`, with `Retry-After`): the client's answer. Nothing is published, what has
  come stays for the next attempt, and the next pull without the fault succeeds. Where a file is wrong, the message names it.
* –: there is no such case (a redirect has no body; what is not content has no digest).

## What stands behind it

* **Retries.** Statuses 408, 429 and 5xx, lost connections and broken bodies are tried again, five times by default, with pauses that double
  from 0.3 s and are never the same. A body goes on at the next byte. What counts is progress: the attempts begin anew with each byte.
* **Stalls, not timeouts.** A connection that is silent for `upstream.stall_timeout` (30 s) is given up. One that is slow is not.
* **Rate limits.** A 429 that says how long (`Retry-After`, `RateLimit`) stops all requests of its route together: the API, the resolvers, or
  one other host. Up to 5 minutes are waited for while an image is filled, up to 20 s before that; a longer wait is told to the client.
* **Parallel reads.** A host that answers 403, 429 or 503 to good ranges while others run is given half as many reads at once, and one more
  for every 10 s without a refusal.
* **Ignored ranges.** If a server answers a range with the whole file, that file is read in one stream from then on: each piece takes over
  where the one before ended. If the answer to the first piece of a file shows it, no byte comes twice.
* **Digests.** A file whose SHA-256 (or git object id) is wrong is fetched once more, and then refused. Files of the layer before it are
  not fetched again.
* **Commits.** A tag is resolved once, and the fill is of that commit: a branch that moves meanwhile changes nothing.
* **Offline.** With `--offline` nobody is asked: cached tags and commits are served, all else is a 404 that says so.
";

fn cell(moment: Moment, case: fn(Moment) -> Option<super::table::Case>) -> String {
    match case(moment).map(|case| case.ends) {
        None => "–".to_owned(),
        Some(Ends::Survives(Extra::Nothing)) => "ok".to_owned(),
        Some(Ends::Survives(Extra::Piece)) => "ok¹".to_owned(),
        Some(Ends::Survives(Extra::File)) => "ok²".to_owned(),
        Some(Ends::Survives(Extra::Ahead)) => "ok³".to_owned(),
        Some(Ends::Fails(status, _)) => status.to_string(),
    }
}

fn page() -> String {
    let titles = Moment::ALL.map(Moment::title).join(" | ");
    let mut page = format!(
        "{HEAD}{titles} |\n|---|{}\n",
        "---|".repeat(Moment::ALL.len())
    );
    let mut counts = [0; 2];
    for row in ROWS {
        let cells = Moment::ALL.map(|moment| cell(moment, row.case)).join(" | ");
        page.push_str(&format!("| {} | {cells} |\n", row.name));
        for case in Moment::ALL.into_iter().filter_map(row.case) {
            counts[usize::from(matches!(case.ends, Ends::Fails(..)))] += 1;
        }
    }
    let [survived, refused] = counts;
    let all = survived + refused;
    page.push_str(&format!(
        "\n{all} cells, each run once in every run of the tests: {survived} survive, {refused} end in the error shown; \
         no wrong byte, no lost blob.\n"
    ));
    page + TAIL
}

#[test]
fn the_page_is_what_the_table_says() {
    if std::env::var_os("HF_OCI_WRITE_DOCS").is_some() {
        std::fs::write(PATH, page()).expect("written");
    }
    let written = std::fs::read_to_string(PATH).expect("docs/reliability.md");
    assert!(
        written == page(),
        "docs/reliability.md is not what the tests do; write it anew: HF_OCI_WRITE_DOCS=1 cargo test --test it faults"
    );
}
