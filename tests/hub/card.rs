//! The front matter of a README, as `cardData`. Plain keys, quoted and bare scalars, and lists of them: no more of YAML.

use serde_json::{Map, Value};

/// The block between `---` lines at the head of a text; null if there is none.
pub fn front_matter(text: &str) -> Value {
    let mut lines = text.lines();
    if lines.next() != Some("---") {
        return Value::Null;
    }
    let mut card = Map::new();
    let mut key = String::new();
    for line in lines.take_while(|line| *line != "---") {
        if let Some(item) = line.trim_start().strip_prefix("- ") {
            push(&mut card, &key, scalar(item));
        } else if let Some((name, value)) = line.split_once(':').filter(|_| !line.starts_with(' '))
        {
            name.trim().clone_into(&mut key);
            if !value.trim().is_empty() {
                card.insert(key.clone(), scalar(value));
            }
        }
    }
    Value::Object(card)
}

fn push(card: &mut Map<String, Value>, key: &str, item: Value) {
    let list = card.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.push(item);
    }
}

fn scalar(text: &str) -> Value {
    let text = text.trim();
    let bare = text.trim_matches(|c| c == '"' || c == '\'');
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => Value::String(bare.to_owned()),
    }
}
