//! Prints a [`Program`] as text that reads back equal.

use indexmap::IndexMap;

use super::lexer::is_ident;
use super::literal::write_value;
use super::types::write_type;
use crate::program::{Argument, Binding, Block, NamedType, Operation, Opset, Program, Value};

/// Notation of scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `program(1.0)`: `tensor<int32, []>(1)`. Compiled models up to opset iOS17.
    V1_0,
    /// `program(1.3)`: `int32(1)`. Compiled models from opset iOS18.
    V1_3,
}

/// Prints a program in the dialect of its opset.
pub fn print(program: &Program) -> String {
    let newest = program.functions.values().map(|f| f.opset).max();
    print_as(program, if newest >= Some(Opset::Ios18) { Dialect::V1_3 } else { Dialect::V1_0 })
}

/// Prints a program in the given dialect.
///
/// [`super::parse`] reads it back to an equal program, except for NaN payloads.
pub fn print_as(program: &Program, dialect: Dialect) -> String {
    let mut printer = Printer { out: String::new(), dialect };
    printer.program(program);
    printer.out
}

/// Writes a string with quotes and escapes.
pub(super) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => out.push(other),
        }
    }
    out.push('"');
}

struct Printer {
    out: String,
    dialect: Dialect,
}

impl Printer {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Writes a name, quoted unless it is an identifier.
    fn name(&mut self, name: &str) {
        if is_ident(name) { self.push(name) } else { write_text(&mut self.out, name) }
    }

    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Self, T)) {
        for (i, x) in items.into_iter().enumerate() {
            self.push(if i > 0 { ", " } else { "" });
            item(self, x);
        }
    }

    fn value(&mut self, value: &Value) {
        write_value(&mut self.out, value, self.dialect);
    }

    fn named_type(&mut self, named: &NamedType) {
        write_type(&mut self.out, &named.ty, self.dialect);
        self.push(" ");
        self.name(&named.name);
    }

    fn program(&mut self, program: &Program) {
        self.push(match self.dialect {
            Dialect::V1_0 => "program(1.0)\n",
            Dialect::V1_3 => "program(1.3)\n",
        });
        if !program.attributes.is_empty() {
            self.attributes(None, &program.attributes);
            self.push("\n");
        }
        self.push("{\n");
        for (name, function) in &program.functions {
            self.push("    func ");
            self.name(name);
            self.push("<");
            self.push(function.opset.text_name());
            self.push(">(");
            self.list(&function.inputs, Self::named_type);
            self.push(") ");
            if !function.attributes.is_empty() {
                self.attributes(None, &function.attributes);
                self.push(" ");
            }
            // The compiler's indentation: operations three levels deep.
            self.body(&function.block, 2);
            self.push(";\n");
        }
        self.push("}");
    }

    fn body(&mut self, block: &Block, depth: usize) {
        self.push("{\n");
        for operation in &block.operations {
            self.operation(operation, depth + 1);
        }
        self.indent(depth);
        self.push("} -> (");
        self.list(&block.outputs, |p, name| p.name(name));
        self.push(")");
    }

    fn indent(&mut self, depth: usize) {
        for _ in 0..depth {
            self.push("    ");
        }
    }

    fn operation(&mut self, op: &Operation, depth: usize) {
        self.indent(depth);
        if !op.outputs.is_empty() {
            self.list(&op.outputs, Self::named_type);
            self.push(" = ");
        }
        self.name(&op.kind);
        self.push("(");
        self.list(&op.inputs, |p, (name, argument)| {
            p.name(name);
            p.push(" = ");
            match argument {
                Argument::One(binding) => p.binding(binding),
                Argument::Many(bindings) => {
                    p.push("(");
                    p.list(bindings, Self::binding);
                    p.push(")");
                }
            }
        });
        self.push(")");
        for block in &op.blocks {
            self.push(" (");
            self.list(&block.inputs, Self::named_type);
            self.push(") ");
            self.body(block, depth);
        }
        let unnamed = op.name.is_empty() && op.outputs.is_empty();
        if !unnamed || !op.attributes.is_empty() {
            self.attributes(Some(&op.name).filter(|_| !unnamed), &op.attributes);
        }
        self.push(";\n");
    }

    fn binding(&mut self, binding: &Binding) {
        match binding {
            Binding::Name(name) => self.name(name),
            Binding::Value(value) => self.value(value),
        }
    }

    /// Writes attributes in order; the name of an operation stands where sorted attributes have it.
    fn attributes(&mut self, name: Option<&String>, all: &IndexMap<String, Value>) {
        let own = name.map(|name| ("name".to_owned(), Value::string(name)));
        let before = all.keys().take_while(|key| key.as_str() < "name").count();
        let (head, tail) = (all.iter().take(before), all.iter().skip(before));
        self.push("[");
        self.list(head.chain(own.as_ref().map(|(k, v)| (k, v))).chain(tail), |p, (name, value)| {
            p.name(name);
            p.push(" = ");
            p.value(value);
        });
        self.push("]");
    }
}
