//! Many rows from one file: CSV, JSON lines, tensors whose first dimension counts rows.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_coreml::description::{FeatureDescription, FeatureType};
use candle_coreml::format::file;
use candle_coreml::{CoreMLModel, FeatureRow, FeatureValue};
use serde_json::{Map, Value};

use super::{Failure, values};

/// Largest file of rows.
const LARGEST: u64 = 1 << 30;

/// Rows of a CSV or JSON lines file; `None` for files of other kinds.
pub(super) fn read(path: &Path, model: &CoreMLModel) -> Result<Option<Vec<FeatureRow>>, Failure> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let rows: fn(&str, &CoreMLModel) -> Result<Vec<FeatureRow>, String> = match ending.as_deref() {
        Some("csv") => csv,
        Some("jsonl" | "ndjson") => lines,
        _ => return Ok(None),
    };
    let text = file::read_text(path, LARGEST)?;
    if let Some(found) = values::foreign(&text) {
        return Err(format!("{}: expected rows, found {found}", path.display()).into());
    }
    rows(&text, model).map(Some).map_err(|e| format!("{}: {e}", path.display()).into())
}

/// A JSON object in each line; empty lines are left out.
fn lines(text: &str, model: &CoreMLModel) -> Result<Vec<FeatureRow>, String> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    filled
        .map(|(i, line)| -> Result<FeatureRow, String> {
            let values: Map<String, Value> = serde_json::from_str(line).map_err(|e| format!("line {}: {e}", i + 1))?;
            values::row(values, model).map_err(|e| format!("line {}: {e}", i + 1))
        })
        .collect()
}

/// Records of a CSV text (RFC 4180): fields in quotes may hold commas, line breaks and doubled quotes.
fn records(text: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut all, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    let (mut quoted, mut begun) = (false, false);
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => (quoted, begun) = (true, true),
            _ if quoted => field.push(c),
            ',' => {
                record.push(std::mem::take(&mut field));
                begun = true;
            }
            '\r' if rest.peek() == Some(&'\n') => {}
            '\n' => {
                if begun || !field.is_empty() {
                    record.push(std::mem::take(&mut field));
                    all.push(std::mem::take(&mut record));
                }
                begun = false;
            }
            _ => field.push(c),
        }
    }
    if quoted {
        return Err("a quote that does not end".to_owned());
    }
    if begun || !field.is_empty() {
        record.push(field);
        all.push(record);
    }
    Ok(all)
}

/// The columns of a feature: one with its name, `name[0]`, `name[1]` and so on for an array.
fn columns(header: &HashMap<&str, usize>, feature: &FeatureDescription) -> Vec<usize> {
    if let Some(&i) = header.get(feature.name.as_str()) {
        return vec![i];
    }
    let numbered = |i: usize| header.get(format!("{}[{i}]", feature.name).as_str()).copied();
    (0..).map_while(numbered).collect()
}

/// A header with the names of the inputs, then a row in each line. Empty fields are values that are not given.
fn csv(text: &str, model: &CoreMLModel) -> Result<Vec<FeatureRow>, String> {
    let mut records = records(text)?.into_iter();
    let header = records.next().ok_or("expected a header with the names of the inputs, found nothing")?;
    let described = &model.function_description().inputs;
    let mut known = HashMap::with_capacity(header.len());
    for (i, name) in header.iter().enumerate() {
        if known.insert(name.as_str(), i).is_some() {
            return Err(format!("expected each column once, found `{name}` twice"));
        }
    }
    let mut places: Vec<(&FeatureDescription, Vec<usize>)> =
        described.iter().map(|f| (f, columns(&known, f))).filter(|(_, at)| !at.is_empty()).collect();
    // The columns of a table are the elements of the only input.
    if let ([only], true) = (described.as_slice(), places.is_empty())
        && matches!(only.ty, FeatureType::MultiArray { .. })
    {
        places = vec![(only, (0..header.len()).collect())];
    }
    let used: HashSet<usize> = places.iter().flat_map(|(_, at)| at).copied().collect();
    if let Some(i) = (0..header.len()).find(|i| !used.contains(i)) {
        let names: Vec<&str> = described.iter().map(|f| f.name.as_str()).collect();
        return Err(format!("expected columns of the inputs {}, found `{}`", names.join(", "), header[i]));
    }
    records
        .enumerate()
        .map(|(i, record)| -> Result<FeatureRow, String> {
            let place = |e: String| format!("record {}: {e}", i + 1);
            if record.len() != header.len() {
                return Err(place(format!("expected {} fields, found {}", header.len(), record.len())));
            }
            let mut row = FeatureRow::with_capacity(places.len());
            for (feature, at) in &places {
                let fields: Vec<&str> = at.iter().map(|&c| record[c].as_str()).collect();
                if let Some(value) = field(model, feature, &fields).map_err(place)? {
                    row.push((feature.name.clone(), value));
                }
            }
            Ok(row)
        })
        .collect()
}

/// The value of a feature in its fields; none if they are empty.
fn field(model: &CoreMLModel, feature: &FeatureDescription, fields: &[&str]) -> Result<Option<FeatureValue>, String> {
    let bad = |kind: &str, found: &str| format!("`{}`: expected {kind}, found `{found}`", feature.name);
    let number = |text: &&str| match text.trim() {
        "" => Ok(f64::NAN),
        text => text.parse().map_err(|_| bad("a number", text)),
    };
    let array = matches!(feature.ty, FeatureType::MultiArray { .. });
    match (&feature.ty, fields) {
        (FeatureType::String, [text]) => Ok(Some((*text).into())),
        (_, all) if all.iter().all(|t| t.trim().is_empty()) && !(array && all.len() > 1) => {
            Ok((feature.ty == FeatureType::Double && !feature.optional).then_some(FeatureValue::Double(f64::NAN)))
        }
        (FeatureType::Double, [text]) => number(text).map(|x| Some(x.into())),
        (FeatureType::Int64, [text]) => {
            text.trim().parse::<i64>().map(|n| Some(n.into())).map_err(|_| bad("an integer", text))
        }
        (FeatureType::MultiArray { shape, .. }, all) if !all[0].trim_start().starts_with('[') => {
            let numbers = all.iter().map(number).collect::<Result<Vec<f64>, _>>()?;
            let fits = shape.iter().product::<usize>() == numbers.len() && !shape.is_empty();
            let shape = if fits { shape.clone() } else { vec![numbers.len()] };
            let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu).map_err(|e| e.to_string())?;
            Ok(Some(tensor.into()))
        }
        (FeatureType::MultiArray { .. } | FeatureType::Dictionary { .. } | FeatureType::Sequence { .. }, [text]) => {
            let value: Value = serde_json::from_str(text).map_err(|_| bad("JSON", text))?;
            values::value_of(model, &feature.name, &value).map(Some)
        }
        (other, _) => Err(bad(other.in_words(), &fields.join(","))),
    }
}

/// Rows of tensors whose first dimension counts them.
pub(super) fn of_tensors(
    tensors: impl IntoIterator<Item = (String, Tensor)>,
    model: &CoreMLModel,
) -> Result<Vec<FeatureRow>, Failure> {
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    let count = tensors.first().and_then(|(_, t)| t.dims().first().copied()).unwrap_or(0);
    let mut rows: Vec<FeatureRow> = vec![FeatureRow::new(); count];
    for (name, tensor) in tensors {
        if tensor.dims().first() != Some(&count) {
            return Err(format!("`{name}`: expected {count} rows, found shape {:?}", tensor.dims()).into());
        }
        let described = model.function_description().input(&name).map(|f| &f.ty);
        let whole: Option<Vec<usize>> = match described {
            Some(FeatureType::MultiArray { shape, .. }) if shape.len() == tensor.rank() => Some(shape.clone()),
            _ => None,
        };
        for (i, row) in rows.iter_mut().enumerate() {
            let one = tensor.get(i)?;
            // A described batch of one keeps its dimension.
            let one = if whole.as_ref().is_some_and(|s| s[0] == 1) { one.unsqueeze(0)? } else { one };
            let value = match described {
                Some(FeatureType::Double) => FeatureValue::Double(one.to_dtype(DType::F64)?.to_scalar()?),
                _ => one.contiguous()?.into(),
            };
            row.push((name.clone(), value));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas_breaks_and_quotes() {
        let all = records("a,\"b\"\r\n\"x,\n\"\"y\"\"\",\n\n1,2").expect("records");
        assert_eq!(all, [vec!["a", "b"], vec!["x,\n\"y\"", ""], vec!["1", "2"]]);
        assert!(records("a\n\"b").is_err());
        assert!(records("").expect("nothing").is_empty());
    }

    const CSV: &str =
        "colour,size,weight,price\r\nred,5,0.25,1.5\r\n\"grey\",4,,3\r\n\"a,\n\"\"b\"\"\",9,-1e300,nan\r\n";
    const LINES: &str = "{\"colour\": \"red\", \"size\": 5, \"weight\": 0.25, \"price\": 1.5}\n\n{\"size\": [1, [2]], \"price\": {\"a\": 1}}\n";

    /// Texts with changed, repeated and lost characters: rows or errors, never a panic. For longer: `ROWS_SECONDS=600`.
    #[test]
    fn changed_texts_are_rows_or_errors() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/nested/table.mlmodel");
        let model = CoreMLModel::builder(path).engine(candle_coreml::EngineChoice::Portable).load().expect("it loads");
        assert_eq!(csv(CSV, &model).expect("rows").len(), 3);
        let seconds = std::env::var("ROWS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
        let started = std::time::Instant::now();
        let (mut state, mut count) = (0x9E37_79B9_7F4A_7C15_u64, 0u64);
        let mut roll = |sides: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % sides.max(1)
        };
        const PARTS: &[&str] = &[
            "\"",
            "\"\"",
            ",",
            "\n",
            "\r\n",
            "\r",
            "[",
            "]",
            "{",
            "}",
            "1e999",
            "-0",
            "9223372036854775808",
            "NaN",
            "é",
            "\u{feff}",
            "\0",
            ":",
            "price",
        ];
        while count < 20_000 || started.elapsed().as_secs() < seconds {
            let seed = if count.is_multiple_of(2) { CSV } else { LINES };
            let mut text: Vec<char> = seed.chars().collect();
            for _ in 0..=roll(5) {
                let at = roll(text.len() + 1);
                match roll(4) {
                    0 => text.truncate(at.max(1)),
                    1 if at < text.len() => {
                        text.remove(at);
                    }
                    2 => {
                        let copy: Vec<char> = text[at / 2..at].to_vec();
                        text.extend(copy);
                    }
                    _ => drop(text.splice(at..at, PARTS[roll(PARTS.len())].chars())),
                }
            }
            let text: String = text.into_iter().collect();
            let rows = if count.is_multiple_of(2) { csv(&text, &model) } else { lines(&text, &model) };
            if let Ok(rows) = rows {
                let _ = model.predict_batch(&rows);
            }
            count += 1;
        }
        note!("{count} texts");
    }
}
