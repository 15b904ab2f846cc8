//! Promises, counts and limits.

use super::*;

const DISK: Disk = Disk {
    size: 1000,
    free: 500,
};

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn room(max: u64) -> Arc<Room> {
    let limits = Limits {
        max_size: Some(max),
        ..Limits::default()
    };
    let staged = [(digest(9), 30)].into();
    Arc::new(Room::new(&std::env::temp_dir(), limits, 50, staged))
}

fn claim(room: &Arc<Room>, wanted: &[Wanted]) -> Result<Reservation, Short> {
    room.claim(wanted).expect("a disk")
}

#[test]
fn a_layer_is_promised_once_however_many_wait_for_it() {
    let room = room(200);
    let one = claim(&room, &[(digest(1), 60)]).expect("room");
    let two = claim(&room, &[(digest(1), 60), (digest(2), 50)]).expect("room");
    assert_eq!(room.used().reserved, 110);
    assert_eq!(room.used().total(), 190);
    let short = claim(&room, &[(digest(3), 11)]).expect_err("too much");
    assert_eq!((short.bytes, short.limit), (1, Limit::MaxSize(200)));
    drop(one);
    assert_eq!(room.used().reserved, 110);
    room.sealed(&digest(1), 60, true);
    assert_eq!((room.used().published, room.used().reserved), (110, 50));
    drop(two);
    assert_eq!((room.used().published, room.used().reserved), (110, 0));
}

#[test]
fn what_is_staged_already_is_not_counted_again() {
    let room = room(80);
    let all = claim(&room, &[(digest(9), 30)]).expect("room");
    assert_eq!(room.idle(), []);
    assert_eq!(room.used().total(), 80);
    drop(all);
    assert_eq!(room.idle(), [(digest(9), 30)]);
}

#[test]
fn a_stale_promise_does_not_end_a_new_one() {
    let room = room(1000);
    let old = claim(&room, &[(digest(1), 60)]).expect("room");
    room.sealed(&digest(1), 60, true);
    room.removed(60);
    let _new = claim(&room, &[(digest(1), 60)]).expect("room");
    drop(old);
    assert_eq!(room.used().reserved, 60);
}

#[test]
fn a_blob_that_is_renamed_while_all_are_counted_is_counted_once() {
    let room = room(1000);
    let moving = room.moving();
    // The listing has it already.
    room.count(|| Ok(50 + 60)).expect("counted");
    room.sealed(&digest(1), 60, true);
    drop(moving);
    assert_eq!(room.used().published, 110);
    room.count(|| Ok(120)).expect("counted");
    assert_eq!(room.used().published, 120);
}

#[test]
fn the_disk_keeps_what_is_to_stay_free_and_what_is_promised() {
    let mut counts = Counts::default();
    let limits = |min_free| Limits {
        max_size: None,
        min_free,
    };
    let five = limits(MinFree::Percent(5));
    assert_eq!(counts.short(&five, &DISK, &[(digest(1), 450)]), None);
    counts.claim((digest(1), 450));
    let short = counts.short(&five, &DISK, &[(digest(2), 10)]);
    let limit = Limit::MinFree(50);
    assert_eq!(short, Some(Short { bytes: 10, limit }));
    // Once it is staged, the disk's own number has it.
    counts.change(&digest(1), |_, staged| *staged = Some(450));
    assert_eq!(counts.short(&five, &DISK, &[(digest(2), 10)]), None);
    let much = limits(MinFree::Bytes(u64::MAX));
    assert!(counts.short(&much, &DISK, &[(digest(2), 10)]).is_some());
}

#[test]
fn the_sums_are_those_of_what_there_is() {
    let room = room(1_000_000);
    let counted = |room: &Room| {
        let counts = room.counts();
        let all = counts.claims.keys().chain(counts.staged.keys());
        let all: std::collections::HashSet<&Digest> = all.collect();
        let mut sums = Sums::default();
        for recipe in all {
            let staged = counts.staged.get(recipe).copied();
            sums.add(Sums::of(counts.claims.get(recipe), staged));
        }
        (sums, counts.sums)
    };
    let mut held = Vec::new();
    for step in 0..200_u64 {
        let recipe = digest((step * 7 % 5) as u8 + 5);
        match step * 5 % 7 {
            0 | 1 => held.push(claim(&room, &[(recipe, step), (digest(1), 3)]).expect("room")),
            2 => room.staged(&recipe, step + 100),
            3 => room.unstaged(&recipe),
            4 => room.sealed(&recipe, step, true),
            _ => drop((!held.is_empty()).then(|| held.remove(0))),
        }
        let (sums, kept) = counted(&room);
        assert_eq!(kept, sums, "step {step}");
    }
    held.clear();
    assert_eq!(room.used().reserved, 0);
}

#[test]
fn bytes_are_told_short() {
    for (bytes, text) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1_500_000, "1.4 MiB"),
        ((1 << 30) - 1, "1.0 GiB"),
        (5 << 40, "5.0 TiB"),
    ] {
        assert_eq!(Bytes(bytes).to_string(), text);
    }
}
