//! The same repository gives the same digests, whatever order its bytes came in and however many threads there were.

use std::time::Duration;

use crate::harness::{Proxy, Setup, demo};
use crate::hub::{Effect, Fault, Hub};

async fn digest(hub: &Hub, connections: usize, layers: usize) -> String {
    let mut setup = Setup::default();
    setup.fill.connections = connections;
    setup.fill.layers = layers;
    let proxy = Proxy::start_with(hub, setup).await;
    proxy.index("org/demo", "main").await.0.to_string()
}

#[test]
fn arrival_order_connections_and_threads_do_not_change_the_index() {
    let mut digests = Vec::new();
    for (threads, connections, late) in
        [(1, 1, None), (4, 16, Some(0..1)), (2, 4, Some(1..u64::MAX))]
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("a runtime");
        digests.push(runtime.block_on(async {
            let hub = demo().await;
            if let Some(late) = late {
                let fault = Fault::cdn("")
                    .range_start(late)
                    .then(Effect::Delay(Duration::from_millis(200)));
                hub.fault(fault);
            }
            digest(&hub, connections, threads).await
        }));
    }
    assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
}
