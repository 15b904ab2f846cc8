package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/stargz-snapshotter/estargz"
	digest "github.com/opencontainers/go-digest"
)

type stats struct {
	files, chunks, requests int
	bytes                   int64
}

// Names that unpackers hide or act upon; a layer of ours holds none of them.
var reserved = map[string]bool{
	estargz.TOCTarName:         true,
	estargz.PrefetchLandmark:   true,
	estargz.NoPrefetchLandmark: true,
}

// checkTree walks the layer as a file system. Files must not have been seen in
// another layer; folders may repeat.
func checkTree(r *estargz.Reader, v estargz.TOCEntryVerifier, dir string, seen map[string]bool, stats *stats) error {
	root, ok := r.Lookup("")
	if !ok {
		return fmt.Errorf("no root")
	}
	return walk(root, "", func(name string, e *estargz.TOCEntry) error {
		if reserved[path.Base(name)] {
			return fmt.Errorf("%s: a landmark", name)
		}
		if e.UID != 0 || e.GID != 0 || e.ModTime().Unix() != 0 {
			return fmt.Errorf("%s: owner %d:%d, time %s", name, e.UID, e.GID, e.ModTime())
		}
		switch e.Type {
		case "dir":
			if e.Mode != 0755 {
				return fmt.Errorf("%s: mode %o", name, e.Mode)
			}
		case "reg":
			if e.Mode != 0644 {
				return fmt.Errorf("%s: mode %o", name, e.Mode)
			}
			if seen[name] {
				return fmt.Errorf("%s: in two layers", name)
			}
			if err := checkFile(r, v, name, filepath.Join(dir, name), e, stats); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			stats.files++
		default:
			return fmt.Errorf("%s: type %q", name, e.Type)
		}
		seen[name] = true
		return nil
	})
}

func walk(e *estargz.TOCEntry, name string, visit func(string, *estargz.TOCEntry) error) (err error) {
	e.ForeachChild(func(base string, child *estargz.TOCEntry) bool {
		full := path.Join(name, base)
		if err = visit(full, child); err == nil {
			err = walk(child, full, visit)
		}
		return err == nil
	})
	return err
}

// checkFile reads the file chunk by chunk, verifies each chunk as a lazy reader
// would, and compares it with the original.
func checkFile(r *estargz.Reader, v estargz.TOCEntryVerifier, name, original string, e *estargz.TOCEntry, stats *stats) error {
	want, err := os.ReadFile(original)
	if err != nil {
		return err
	}
	if e.Size != int64(len(want)) {
		return fmt.Errorf("size %d, expected %d", e.Size, len(want))
	}
	if e.Size == 0 {
		return nil
	}
	if e.Digest != sha(want).String() {
		return fmt.Errorf("digest %s, expected %s", e.Digest, sha(want))
	}
	sr, err := r.OpenFile(name)
	if err != nil {
		return err
	}
	for at := int64(0); at < e.Size; {
		chunk, ok := r.ChunkEntryForOffset(name, at)
		if !ok || chunk.ChunkOffset != at || chunk.ChunkSize <= 0 {
			return fmt.Errorf("no chunk at %d", at)
		}
		got := make([]byte, chunk.ChunkSize)
		if _, err := sr.ReadAt(got, at); err != nil {
			return fmt.Errorf("chunk at %d: %w", at, err)
		}
		cv, err := v.Verifier(chunk)
		if err != nil {
			return fmt.Errorf("chunk at %d: %w", at, err)
		}
		if _, err := cv.Write(got); err != nil || !cv.Verified() {
			return fmt.Errorf("chunk at %d does not match its digest %s (%v)", at, chunk.ChunkDigest, err)
		}
		if !bytes.Equal(got, want[at:at+chunk.ChunkSize]) {
			return fmt.Errorf("chunk at %d differs from the original", at)
		}
		at += chunk.ChunkSize
		stats.chunks++
		stats.bytes += chunk.ChunkSize
	}
	return nil
}

// gunzipped gives the length and digest of the whole uncompressed stream,
// across all gzip members.
func gunzipped(blob []byte) (int64, digest.Digest, error) {
	zr, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		return 0, "", err
	}
	h := sha256.New()
	n, err := io.Copy(h, zr)
	return n, digest.NewDigest(digest.SHA256, h), err
}
