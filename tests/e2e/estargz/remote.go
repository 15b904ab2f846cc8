package main

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
)

// The snapshotter's reads are aligned to this.
const regionSize = 50000

// The most ranges put into one header.
const maxRanges = 16

// remote reads a blob by HTTP ranges, in aligned regions it keeps.
type remote struct {
	url      string
	size     int64
	multi    bool
	regions  map[int64][]byte
	requests *int
}

// openRemote asks as the snapshotter does: two bytes first, then the size by HEAD.
func openRemote(url string, size int64, multi bool, requests *int) (*remote, error) {
	r := &remote{url: url, size: size, multi: multi, regions: map[int64][]byte{}, requests: requests}
	probe := span{0, 1}
	if _, err := r.single(probe); err != nil {
		return nil, fmt.Errorf("bytes=0-1: %w", err)
	}
	res, err := http.Head(url)
	if err != nil {
		return nil, err
	}
	res.Body.Close()
	*requests++
	if res.StatusCode != 200 || res.ContentLength != size {
		return nil, fmt.Errorf("HEAD: %s, length %d, expected %d", res.Status, res.ContentLength, size)
	}
	return r, nil
}

type span struct{ first, last int64 }

func (s span) len() int64 { return s.last - s.first + 1 }

func (r *remote) region(i int64) span {
	s := span{i * regionSize, i*regionSize + regionSize - 1}
	if s.last >= r.size {
		s.last = r.size - 1
	}
	return s
}

func (r *remote) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.size {
		return 0, io.EOF
	}
	end := off + int64(len(p))
	if end > r.size {
		end = r.size
	}
	var missing []int64
	for i := off / regionSize; i*regionSize < end; i++ {
		if r.regions[i] == nil {
			missing = append(missing, i)
		}
	}
	if err := r.load(missing); err != nil {
		return 0, err
	}
	n := 0
	for at := off; at < end; {
		part := r.regions[at/regionSize][at%regionSize:]
		if int64(len(part)) > end-at {
			part = part[:end-at]
		}
		n += copy(p[n:], part)
		at += int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *remote) load(missing []int64) error {
	if !r.multi {
		for _, i := range missing {
			body, err := r.single(r.region(i))
			if err != nil {
				return err
			}
			r.regions[i] = body
		}
		return nil
	}
	// Every second region, then the others: neighbours would be one range.
	for parity := int64(0); parity < 2; parity++ {
		var batch []int64
		for _, i := range missing {
			if i%2 == parity {
				batch = append(batch, i)
			}
		}
		for len(batch) > 0 {
			n := len(batch)
			if n > maxRanges {
				n = maxRanges
			}
			if err := r.several(batch[:n]); err != nil {
				return err
			}
			batch = batch[n:]
		}
	}
	return nil
}

func (r *remote) get(ranges string) (*http.Response, error) {
	req, err := http.NewRequest("GET", r.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", "bytes="+ranges)
	req.Header.Set("Accept-Encoding", "identity")
	*r.requests++
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusPartialContent {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 300))
		res.Body.Close()
		return nil, fmt.Errorf("bytes=%s: %s: %s", ranges, res.Status, body)
	}
	return res, nil
}

func (r *remote) single(s span) ([]byte, error) {
	res, err := r.get(fmt.Sprintf("%d-%d", s.first, s.last))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") == "" {
		return nil, fmt.Errorf("a 206 without Content-Type")
	}
	return r.body(s, res.Header.Get("Content-Range"), res.Body)
}

// body reads one part and holds its Content-Range to what was asked for.
func (r *remote) body(s span, contentRange string, from io.Reader) ([]byte, error) {
	if want := fmt.Sprintf("bytes %d-%d/%d", s.first, s.last, r.size); contentRange != want {
		return nil, fmt.Errorf("Content-Range %q, expected %q", contentRange, want)
	}
	body, err := io.ReadAll(from)
	if err == nil && int64(len(body)) != s.len() {
		err = fmt.Errorf("%s: %d bytes", contentRange, len(body))
	}
	return body, err
}

// several asks for all regions in one header and reads the parts in order.
func (r *remote) several(regions []int64) error {
	if len(regions) == 1 {
		body, err := r.single(r.region(regions[0]))
		r.regions[regions[0]] = body
		return err
	}
	var asked []string
	for _, i := range regions {
		asked = append(asked, fmt.Sprintf("%d-%d", r.region(i).first, r.region(i).last))
	}
	res, err := r.get(strings.Join(asked, ","))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	kind, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		return fmt.Errorf("several ranges answered with Content-Type %q (%v)", res.Header.Get("Content-Type"), err)
	}
	parts := multipart.NewReader(res.Body, params["boundary"])
	for _, i := range regions {
		part, err := parts.NextPart()
		if err != nil {
			return fmt.Errorf("part %v: %w", r.region(i), err)
		}
		if part.Header.Get("Content-Type") == "" {
			return fmt.Errorf("part %v without Content-Type", r.region(i))
		}
		if r.regions[i], err = r.body(r.region(i), part.Header.Get("Content-Range"), part); err != nil {
			return err
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		return fmt.Errorf("more parts than ranges (%v)", err)
	}
	return nil
}
