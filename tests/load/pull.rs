//! Many connections pull one image at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::Image;
use crate::client::{Client, Failure};
use crate::process::{Process, kernel_mib};

/// For all of them together.
const LIMIT: Duration = Duration::from_secs(240);

/// Every connection has the first bytes of the largest blob before any of them reads on: all bodies are under way at once.
pub async fn run(
    image: &Image,
    connections: usize,
    process: Option<Process>,
) -> Result<(), Failure> {
    let mut first = Client::connect(image.server).await?;
    let mut wanted = Vec::new();
    for path in image.documents.iter().chain(&image.blobs) {
        wanted.push((path.clone(), first.get(path).await?));
    }
    let wanted: Arc<[(String, Vec<u8>)]> = wanted.into();
    let size: usize = wanted.iter().map(|(_, bytes)| bytes.len()).sum();
    let barrier = Arc::new(Barrier::new(connections));
    let mut clients = JoinSet::new();
    let start = Instant::now();
    for _ in 0..connections {
        let client = Client::connect(image.server).await?;
        clients.spawn(pull(client, wanted.clone(), barrier.clone()));
    }
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok::<_, Failure>(())
    };
    tokio::time::timeout(LIMIT, all).await??;
    let seconds = start.elapsed().as_secs_f64();
    let mib = (size * connections) as f64 / f64::from(1 << 20);
    println!(
        "{connections} connections at once pulled {size} bytes each: no error, {seconds:.1} s, {:.0} MiB/s, kernel memory now {} MiB",
        mib / seconds,
        kernel_mib().unwrap_or_default()
    );
    match process {
        Some(process) => process.check_memory("pulling"),
        None => Ok(()),
    }
}

async fn pull(
    mut client: Client,
    wanted: Arc<[(String, Vec<u8>)]>,
    barrier: Arc<Barrier>,
) -> Result<(), Failure> {
    for (i, (path, bytes)) in wanted.iter().enumerate() {
        let length = client.ask(path).await?;
        if length != bytes.len() as u64 {
            return Err(format!("{path}: {length} bytes").into());
        }
        let mut at = 0;
        while at < bytes.len() {
            let some = client.some().await?;
            if bytes.get(at..at + some.len()) != Some(some) {
                return Err(format!("{path}: wrong bytes").into());
            }
            let begins = at == 0;
            at += some.len();
            if begins && i + 1 == wanted.len() {
                barrier.wait().await;
            }
        }
    }
    Ok(())
}
