//! Examples in the help of verbs; longer verbs keep theirs in their own files.

pub(crate) const PREDICT: &str = "\
Examples:
  candle-coreml predict model.mlpackage --inputs in.safetensors --outputs out.safetensors
  candle-coreml predict model.mlpackage --values in.json      {\"x\": [[1, 2.5]]}; scalars and labels are printed
  candle-coreml predict classifier.mlpackage --image image=cat.jpg --resize crop --top 5
  candle-coreml predict classifier.mlpackage --images photos --resize crop --top 5 --format csv
  candle-coreml predict model.mlpackage --inputs random       a first look at what it returns
  candle-coreml predict model.mlpackage --inputs in.safetensors --state state.safetensors
                                            goes on from a state, and writes it back";

pub(crate) const GENERATE: &str = "\
Examples:
  candle-coreml generate \"What is 37 + 45?\"                   the demo model inside this command
  candle-coreml generate -m path/to/model \"Hello\" --temperature 0.7 --top-p 0.9
  candle-coreml generate -m org/name \"Hello\"                  downloaded once
  candle-coreml generate \"What is the capital of Peru?\" --json
  echo \"What is 37 + 45?\" | candle-coreml generate --system \"Be brief.\"";

pub(crate) const CHAT: &str = "\
Examples:
  candle-coreml chat                                          on a terminal; /help lists its commands
  echo \"What is 37 + 45?\" | candle-coreml chat                through pipes
  candle-coreml chat --model path/to/Qwen2.5-0.5B-Instruct --device cpu
  candle-coreml chat --device cuda --fallback cpu";

#[cfg(feature = "hub")]
pub(crate) const PULL: &str = "\
Examples:
  candle-coreml pull org/name                 into the cache; interrupted downloads go on where they were
  candle-coreml pull org/name@v1.2            a revision
  candle-coreml pull org/name --to ./model    into a folder of its own
  candle-coreml pull org/name --include \"*.json\" --exclude \"onnx/*\"    some files only, apart from the model";

#[cfg(feature = "serve")]
pub(crate) const PS: &str = "\
Examples:
  candle-coreml ps
  candle-coreml ps --json";

#[cfg(feature = "serve")]
pub(crate) const STOP: &str = "\
Examples:
  candle-coreml stop                          the only server that runs
  candle-coreml stop 127.0.0.1:8080           by address, process or model";

pub(crate) const LIST: &str = "\
Examples:
  candle-coreml list
  candle-coreml list --json | jq '.[].name'";

pub(crate) const RM: &str = "\
Examples:
  candle-coreml rm org/name --dry-run         shows what would go
  candle-coreml rm org/name";

#[cfg(feature = "hub")]
pub(crate) const PATH: &str = "\
Examples:
  ls \"$(candle-coreml path demo)\"
  candle-coreml path org/name@v1.2";

pub(crate) const CACHE: &str = "\
Examples:
  candle-coreml cache                                     what is there
  candle-coreml cache info --json
  candle-coreml cache clean --older-than 30d --dry-run    what would go
  candle-coreml cache clean --max-size 20GB --yes         without asking, for scripts";
