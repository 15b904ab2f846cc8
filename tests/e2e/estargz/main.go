// Command estargz reads an image from a registry with the reference eStargz
// library and compares every byte with a folder.
//
//	estargz -registry http://127.0.0.1:5000 -repo org/model -ref main -dir FOLDER
//
// Each layer is read three times: from the blob fetched whole, through single
// HTTP ranges, and through several ranges in one header, as a snapshotter does.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
	digest "github.com/opencontainers/go-digest"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	} `json:"platform"`
}

type document struct {
	Manifests []descriptor `json:"manifests"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Rootfs    struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"

type image struct {
	base   string // http://HOST/v2/REPO
	layers []descriptor
	diffs  []digest.Digest
}

func main() {
	registry := flag.String("registry", "", "the registry's URL")
	repo := flag.String("repo", "", "the repository's name")
	ref := flag.String("ref", "latest", "a tag or digest")
	dir := flag.String("dir", "", "the folder the image must be equal to")
	flag.Parse()
	if err := run(*registry+"/v2/"+*repo, *ref, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "estargz:", err)
		os.Exit(1)
	}
}

func run(base, ref, dir string) error {
	img, err := openImage(base, ref)
	if err != nil {
		return err
	}
	for _, mode := range []string{"whole", "range", "multirange"} {
		seen := map[string]bool{}
		var stats stats
		for i, layer := range img.layers {
			if err := img.checkLayer(i, mode, dir, seen, &stats); err != nil {
				return fmt.Errorf("%s: layer %d (%s): %w", mode, i, layer.Digest, err)
			}
		}
		if err := sameNames(dir, seen); err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
		fmt.Printf("ok estargz %s: %d layers, %d files, %d chunks, %d bytes, %d requests\n",
			mode, len(img.layers), stats.files, stats.chunks, stats.bytes, stats.requests)
	}
	return nil
}

// openImage follows the index to the linux/amd64 manifest and its config,
// checking every document against its digest.
func openImage(base, ref string) (*image, error) {
	index, err := fetchDocument(base+"/manifests/"+ref, "")
	if err != nil {
		return nil, err
	}
	for _, m := range index.Manifests {
		if m.Platform == nil || m.Platform.OS != "linux" || m.Platform.Architecture != "amd64" {
			continue
		}
		manifest, err := fetchDocument(base+"/manifests/"+m.Digest.String(), m.Digest)
		if err != nil {
			return nil, err
		}
		config, err := fetchDocument(base+"/blobs/"+manifest.Config.Digest.String(), manifest.Config.Digest)
		if err != nil {
			return nil, err
		}
		if len(manifest.Layers) == 0 || len(manifest.Layers) != len(config.Rootfs.DiffIDs) {
			return nil, fmt.Errorf("%d layers but %d diff ids", len(manifest.Layers), len(config.Rootfs.DiffIDs))
		}
		return &image{base: base, layers: manifest.Layers, diffs: config.Rootfs.DiffIDs}, nil
	}
	return nil, fmt.Errorf("no linux/amd64 manifest in the index of %s", ref)
}

func fetchDocument(url string, want digest.Digest) (*document, error) {
	body, err := fetch(url)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(body); want != "" && got != want {
		return nil, fmt.Errorf("%s: digest %s", url, got)
	}
	var doc document
	return &doc, json.Unmarshal(body, &doc)
}

func fetch(url string) ([]byte, error) {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	// BuildKit's blob requests offer this; a compressed answer would break the digest.
	req.Header.Set("Accept-Encoding", "zstd, gzip, deflate")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != 200 || res.Header.Get("Content-Encoding") != "") {
		err = fmt.Errorf("%s: %s, Content-Encoding %q: %.300s", url, res.Status, res.Header.Get("Content-Encoding"), body)
	}
	return body, err
}

// checkLayer opens one layer in the given mode and checks all it holds.
func (img *image) checkLayer(i int, mode, dir string, seen map[string]bool, stats *stats) error {
	layer := img.layers[i]
	url := img.base + "/blobs/" + layer.Digest.String()
	var source io.ReaderAt
	if mode == "whole" {
		blob, err := fetch(url)
		if err != nil {
			return err
		}
		stats.requests++
		if err := checkBlob(blob, layer, img.diffs[i]); err != nil {
			return err
		}
		source = bytes.NewReader(blob)
	} else {
		r, err := openRemote(url, layer.Size, mode == "multirange", &stats.requests)
		if err != nil {
			return err
		}
		source = r
	}
	reader, err := estargz.Open(io.NewSectionReader(source, 0, layer.Size))
	if err != nil {
		return err
	}
	toc, err := digest.Parse(layer.Annotations[estargz.TOCJSONDigestAnnotation])
	if err != nil {
		return fmt.Errorf("annotation %s: %w", estargz.TOCJSONDigestAnnotation, err)
	}
	verifier, err := reader.VerifyTOC(toc)
	if err != nil {
		return err
	}
	return checkTree(reader, verifier, dir, seen, stats)
}

// checkBlob checks the layer's digest, size, diff id and its length unpacked.
func checkBlob(blob []byte, layer descriptor, diffID digest.Digest) error {
	if got := digest.FromBytes(blob); got != layer.Digest || int64(len(blob)) != layer.Size {
		return fmt.Errorf("the blob is %s with %d bytes, the manifest says %d", got, len(blob), layer.Size)
	}
	zr, err := estargz.Unpack(io.NewSectionReader(bytes.NewReader(blob), 0, layer.Size), new(estargz.GzipDecompressor))
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	// Unpack stops in front of the TOC, so this only proves that it can be read.
	if _, err := io.Copy(io.Discard, zr); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	raw, sum, err := gunzipped(blob)
	if err != nil {
		return err
	}
	if sum != diffID {
		return fmt.Errorf("diff id %s, the config says %s", sum, diffID)
	}
	if want := layer.Annotations[estargz.StoreUncompressedSizeAnnotation]; want != fmt.Sprint(raw) {
		return fmt.Errorf("%d bytes unpacked, the annotation says %q", raw, want)
	}
	return nil
}

// sameNames compares the files and folders found with those of dir.
func sameNames(dir string, seen map[string]bool) error {
	var wrong []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		if !seen[name] {
			wrong = append(wrong, "missing "+name)
		}
		delete(seen, name)
		return nil
	})
	for name := range seen {
		wrong = append(wrong, "unexpected "+name)
	}
	sort.Strings(wrong)
	if err == nil && wrong != nil {
		err = fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return err
}

func sha(b []byte) digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, sum256(b))
}

func sum256(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}
