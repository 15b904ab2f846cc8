//! Gzip members of stored deflate blocks, and the eStargz footer.

/// The largest stored deflate block.
const BLOCK: usize = 65_535;

/// Every member's header: deflate, no flags, no time, no file system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Bytes of the footer.
pub(super) const FOOTER: u64 = 51;

/// Bytes that a member of `n` > 0 data bytes takes in the blob.
pub(super) const fn member_len(n: u64) -> u64 {
    n + 5 * n.div_ceil(BLOCK as u64) + 18
}

/// The bytes of a member around its data: headers of blocks and the trailer. The data itself is not copied.
pub(super) struct Member<'a> {
    data: &'a [u8],
    heads: Vec<[u8; 5]>,
    trailer: [u8; 8],
}

impl<'a> Member<'a> {
    /// Frames `data`, which is not empty.
    pub(super) fn new(data: &'a [u8]) -> Self {
        let last = data.len().div_ceil(BLOCK) - 1;
        let heads = data
            .chunks(BLOCK)
            .enumerate()
            .map(|(at, block)| {
                let len = block.len() as u16;
                let [l0, l1] = len.to_le_bytes();
                let [n0, n1] = (!len).to_le_bytes();
                [u8::from(at == last), l0, l1, n0, n1]
            })
            .collect();
        let mut crc = flate2::Crc::new();
        crc.update(data);
        let mut trailer = [0; 8];
        trailer[..4].copy_from_slice(&crc.sum().to_le_bytes());
        trailer[4..].copy_from_slice(&(data.len() as u32).to_le_bytes());
        Self {
            data,
            heads,
            trailer,
        }
    }

    /// The member's bytes in order, as slices.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let blocks = self.data.chunks(BLOCK);
        let framed = self
            .heads
            .iter()
            .zip(blocks)
            .flat_map(|(head, block)| [head.as_slice(), block]);
        std::iter::once(HEADER.as_slice())
            .chain(framed)
            .chain(std::iter::once(self.trailer.as_slice()))
    }
}

/// Takes the data out of a member's bytes; `false` if they are not, to the byte, a member of `len` data bytes as [`Member`] frames it.
pub(super) fn unframe(member: &[u8], len: usize, data: &mut Vec<u8>) -> bool {
    data.clear();
    let Some(mut rest) = member.strip_prefix(&HEADER) else {
        return false;
    };
    while data.len() < len {
        let block = (len - data.len()).min(BLOCK);
        if rest.len() < 5 + block {
            return false;
        }
        data.extend_from_slice(&rest[5..5 + block]);
        rest = &rest[5 + block..];
    }
    // What the data would be framed as is compared whole, checksum included.
    let framed = Member::new(data);
    let mut at = 0;
    let same = framed.slices().all(|part| {
        let here = member.get(at..at + part.len());
        at += part.len();
        here == Some(part)
    });
    same && at == member.len()
}

/// The footer that tells where the TOC's member starts.
pub(super) fn footer(toc_offset: u64) -> [u8; FOOTER as usize] {
    let mut out = [0; FOOTER as usize];
    out[..10].copy_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff]);
    out[10..16].copy_from_slice(&[26, 0, b'S', b'G', 22, 0]);
    out[16..38].copy_from_slice(format!("{toc_offset:016x}STARGZ").as_bytes());
    out[38..43].copy_from_slice(&[1, 0, 0, 0xff, 0xff]);
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn framed(data: &[u8]) -> Vec<u8> {
        Member::new(data).slices().flatten().copied().collect()
    }

    #[test]
    fn a_footer_is_an_empty_gzip_member() {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&footer(0x1234)[..])
            .read_to_end(&mut out)
            .expect("a gzip member");
        assert!(out.is_empty());
    }

    #[test]
    fn members_around_the_block_size_decode_to_their_data() {
        for n in [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 7] {
            let data: Vec<u8> = (0..n).map(|i| (i * 7) as u8).collect();
            let mut out = Vec::new();
            flate2::read::GzDecoder::new(&framed(&data)[..])
                .read_to_end(&mut out)
                .expect("a gzip member");
            assert!(out == data, "{n}");
        }
    }

    #[test]
    fn a_member_that_was_damaged_anywhere_is_not_read_back() {
        let data: Vec<u8> = (0..70_000).map(|i| (i * 7) as u8).collect();
        let whole = framed(&data);
        let mut read = Vec::new();
        assert!(unframe(&whole, data.len(), &mut read));
        assert!(read == data);
        for at in [
            0,
            9,
            10,
            12,
            14,
            15,
            40_000,
            65_549,
            65_551,
            whole.len() - 8,
            whole.len() - 1,
        ] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(!unframe(&damaged, data.len(), &mut read), "{at}");
        }
        assert!(!unframe(&whole[..whole.len() - 1], data.len(), &mut read));
        assert!(!unframe(&vec![0; whole.len()], data.len(), &mut read));
    }

    proptest! {
        #[test]
        fn a_members_length_is_known_before(n in 1usize..300_000) {
            prop_assert_eq!(framed(&vec![0; n]).len() as u64, member_len(n as u64));
        }
    }
}
