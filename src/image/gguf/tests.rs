use proptest::prelude::*;

use super::*;
use crate::repo::{ContentId, FilePath};

fn entry(path: &str, size: u64) -> Entry {
    Entry {
        path: FilePath::new(path).expect("a path"),
        size,
        content: ContentId::Git([0; 20]),
    }
}

fn quantisation(text: &str) -> Quantisation {
    text.parse().expect(text)
}

/// What `wanted` holds of some files, each of one byte.
fn held(paths: &[&str], wanted: &str) -> Result<Vec<String>, GgufError> {
    let files: Vec<Entry> = paths.iter().map(|p| entry(p, 1)).collect();
    let files = of(&files, &quantisation(wanted))?;
    Ok(files.iter().map(|f| f.path.to_string()).collect())
}

/// The quantisation of a path, and its model.
fn told(path: &str) -> Option<(String, String)> {
    match read(path) {
        Some(Gguf::Model(quantisation, model)) => Some((quantisation.to_string(), model)),
        _ => None,
    }
}

#[test]
fn the_names_of_the_wild_are_read() {
    for (path, wanted, model) in [
        ("model.Q4_K_M.gguf", "q4_k_m", "model.Q4_K_M"),
        ("model-q4_k_m.gguf", "q4_k_m", "model-q4_k_m"),
        ("model_q4_k_m.gguf", "q4_k_m", "model_q4_k_m"),
        ("Q4_K_M.GGUF", "q4_k_m", "Q4_K_M"),
        (
            "Llama-3.2-3B-Instruct-IQ4_XS.gguf",
            "iq4_xs",
            "Llama-3.2-3B-Instruct-IQ4_XS",
        ),
        ("m-UD-Q4_K_XL.gguf", "ud-q4_k_xl", "m-UD-Q4_K_XL"),
        ("m_ud_q4_k_xl.gguf", "ud-q4_k_xl", "m_ud_q4_k_xl"),
        ("m.i1-Q4_K_M.gguf", "q4_k_m", "m.i1-Q4_K_M"),
        ("m-BF16.gguf", "bf16", "m-BF16"),
        ("m-fp16.gguf", "fp16", "m-fp16"),
        ("gpt-oss-20b-mxfp4.gguf", "mxfp4", "gpt-oss-20b-mxfp4"),
        ("m-Q4_0_4_8.gguf", "q4_0_4_8", "m-Q4_0_4_8"),
        ("m-TQ1_0.gguf", "tq1_0", "m-TQ1_0"),
        (
            "Phi-3-mini-4k-instruct-q4.gguf",
            "q4",
            "Phi-3-mini-4k-instruct-q4",
        ),
        ("m-BF16-Q8_0.gguf", "q8_0", "m-BF16-Q8_0"),
        ("m_q4_0_unquantised.gguf", "q4_0", "m_q4_0_unquantised"),
        (
            "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf",
            "q4_k_m",
            "Q4_K_M/m-Q4_K_M",
        ),
        ("x/Q6_K/m-00001-of-00002.gguf", "q6_k", "x/Q6_K/m"),
        ("BF16/m-Q2_K.gguf", "q2_k", "BF16/m-Q2_K"),
        ("m.Q6_K.gguf.part1of2", "q6_k", "m.Q6_K"),
    ] {
        let wanted = Some((wanted.to_owned(), model.to_owned()));
        assert_eq!(told(path), wanted, "{path}");
    }
    for path in [
        "model.gguf",
        "Qwen2-7B.gguf",
        "mixtral-8x7b.gguf",
        "imatrix.gguf",
        "m-Q10_0.gguf",
        "mmproj-F16.gguf",
        "m-Q4_K_M.gguf.txt",
        "m-Q4_K_M.bin",
        "Q4_K_M",
    ] {
        assert_eq!(told(path), None, "{path}");
    }
}

#[test]
fn a_tag_is_a_quantisation_as_a_whole_and_in_any_case() {
    for text in [
        "q4_k_m",
        "Q4_K_M",
        "UD-Q4_K_XL",
        "bf16",
        "F16",
        "IQ2_XXS",
        "q8_0",
        "mxfp4_moe",
    ] {
        assert_eq!(quantisation(text).to_string(), text.to_ascii_lowercase());
    }
    let long = format!("q4{}", "_0".repeat(40));
    for text in [
        "",
        "main",
        "v1.0",
        "x-q4_0",
        "q4_0-x",
        "q4_0.gguf",
        "q",
        "q44",
        "-q4",
        "q4_",
        &long,
    ] {
        assert!(text.parse::<Quantisation>().is_err(), "{text}");
    }
}

#[test]
fn a_quantisation_has_all_its_parts_and_what_is_small() {
    let files = [
        ".gitattributes",
        "README.md",
        "m-Q4_K-00001-of-00002.gguf",
        "m-Q4_K_M-00001-of-00002.gguf",
        "m-Q4_K_M-00002-of-00002.gguf",
        "m-UD-Q4_K_M.gguf",
        "model.safetensors",
        "odd.gguf",
        "tokenizer/tokenizer.json",
    ];
    let wanted = [
        ".gitattributes",
        "README.md",
        "m-Q4_K_M-00001-of-00002.gguf",
        "m-Q4_K_M-00002-of-00002.gguf",
        "tokenizer/tokenizer.json",
    ];
    assert_eq!(held(&files, "q4_k_m"), Ok(wanted.map(str::to_owned).into()));
}

#[test]
fn what_is_small_is_below_64_mib_and_no_weights() {
    for (path, size, small) in [
        ("tokenizer.json", SMALL - 1, true),
        ("tokenizer.json", SMALL, false),
        ("adapter.SafeTensors", 1, false),
        ("pytorch_model.bin", 1, false),
        ("LICENSE", 1, true),
        ("bin", 1, true),
        ("model.safetensors.index.json", 1, true),
    ] {
        assert_eq!(is_small(&entry(path, size)), small, "{path} {size}");
    }
}

#[test]
fn of_several_projectors_one_goes_with_every_quantisation() {
    let files = [
        "m-Q4_0.gguf",
        "mmproj-BF16.gguf",
        "mmproj-F16.gguf",
        "mmproj-F32.gguf",
    ];
    let wanted = ["m-Q4_0.gguf", "mmproj-F16.gguf"];
    assert_eq!(held(&files, "q4_0"), Ok(wanted.map(str::to_owned).into()));
    let files = ["m-Q4_0.gguf", "mmproj-F32.gguf", "mmproj-m-Q8_0.gguf"];
    assert_eq!(held(&files, "q4_0"), Ok(files.map(str::to_owned).into()));
    assert!(held(&files, "f32").is_err());
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let error = held(&["a-Q8_0.gguf", "b-IQ4_XS.gguf"], "q4_k_m").expect_err("none");
    assert_eq!(
        error.to_string(),
        "there is no GGUF quantisation 'q4_k_m'; it has 'iq4_xs', 'q8_0'"
    );
    let error = held(&["a.safetensors"], "f16").expect_err("none");
    assert!(
        error.to_string().ends_with("there are none at all"),
        "{error}"
    );
}

#[test]
fn several_models_of_a_quantisation_are_ambiguous_and_not_listed() {
    let paths = ["13b/m.Q4_0.gguf", "7b/m.Q4_0.gguf", "7b/m.Q8_0.gguf"];
    let error = held(&paths, "q4_0").expect_err("two");
    assert!(
        error.to_string().contains("'13b/m.Q4_0', '7b/m.Q4_0'"),
        "{error}"
    );
    let files: Vec<Entry> = paths.iter().map(|p| entry(p, 1)).collect();
    assert_eq!(all(&files), [quantisation("q8_0")]);
}

#[test]
fn the_layer_of_a_large_file_is_that_of_the_whole_image() {
    use crate::image::{Layout, recipe, split};
    let files = [
        entry("README.md", 9),
        entry("m-Q4_0.gguf", 1 << 30),
        entry("m-Q8_0.gguf", 1 << 31),
    ];
    let whole = split(files.to_vec(), Layout::Split);
    let one = split(
        of(&files, &quantisation("q4_0")).expect("there"),
        Layout::Split,
    );
    let recipes = |layers: &[Vec<Entry>]| layers.iter().map(|l| recipe(l)).collect::<Vec<_>>();
    let (whole, one) = (recipes(&whole), recipes(&one));
    assert_eq!((one[0], one[1]), (whole[0], whole[2]));
}

/// The quantisations that there are, as llama.cpp and those who publish for it write them.
const KNOWN: &[&str] = &[
    "Q2_K",
    "Q2_K_S",
    "Q2_K_L",
    "Q2_K_XL",
    "Q3_K",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "Q3_K_XL",
    "Q4_0",
    "Q4_1",
    "Q4_0_4_4",
    "Q4_0_4_8",
    "Q4_0_8_8",
    "Q4_K",
    "Q4_K_S",
    "Q4_K_M",
    "Q4_K_L",
    "Q4_K_XL",
    "Q5_0",
    "Q5_1",
    "Q5_K",
    "Q5_K_S",
    "Q5_K_M",
    "Q5_K_L",
    "Q6_K",
    "Q6_K_L",
    "Q8_0",
    "Q8_K_XL",
    "IQ1_S",
    "IQ1_M",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ2_M",
    "IQ3_XXS",
    "IQ3_XS",
    "IQ3_S",
    "IQ3_M",
    "IQ4_XS",
    "IQ4_NL",
    "IQ4_KSS",
    "IQ2_K_R4",
    "TQ1_0",
    "TQ2_0",
    "F16",
    "FP16",
    "F32",
    "BF16",
    "MXFP4",
    "MXFP4_MOE",
    "Q4",
    "Q8",
    "UD-IQ1_S",
    "UD-Q4_K_XL",
    "UD-Q2_K_XL",
    "UD-Q4_K_M",
];

proptest! {
    /// Whatever the names around it: what a quantisation holds of another one is nothing, and of itself all.
    #[test]
    fn no_quantisation_takes_a_file_of_another(
        stem in "[A-Za-z0-9]{1,8}(-[A-Za-z0-9.]{1,6}){0,3}",
        separator in prop::sample::select(&["-", ".", "/"][..]),
        lower in any::<bool>(),
        parts in 0..4_usize,
        at in 0..KNOWN.len(),
        folder in any::<bool>(),
    ) {
        prop_assume!(!stem.ends_with('.') && !stem.to_ascii_lowercase().contains("mmproj"));
        // A stem may end in what makes another quantisation of what follows.
        prop_assume!(!stem.to_ascii_lowercase().ends_with("ud"));
        let mut files = Vec::new();
        let mut owners = Vec::new();
        for known in KNOWN {
            let spelled = if lower { known.to_lowercase() } else { (*known).to_owned() };
            let folder = if folder { format!("{spelled}/") } else { String::new() };
            for part in 0..parts.max(1) {
                let part = match parts {
                    0 => String::new(),
                    n => format!("-{:05}-of-{n:05}", part + 1),
                };
                files.push(entry(&format!("{folder}{stem}{separator}{spelled}{part}.gguf"), 1 << 30));
                owners.push(*known);
            }
        }
        let wanted = KNOWN[at];
        let held = of(&files, &quantisation(wanted)).expect("one model");
        let own = files.iter().zip(&owners).filter(|(_, owner)| **owner == wanted);
        prop_assert_eq!(held, own.map(|(file, _)| file.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn no_path_makes_the_reader_panic(path in "\\PC{0,60}", tail in "(\\.gguf|\\.part1of2|-1-of-2\\.gguf|é\\.GGUF)?") {
        let _ = read(&format!("{path}{tail}"));
        let _ = path.parse::<Quantisation>();
    }
}
