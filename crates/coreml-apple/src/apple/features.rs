//! Inputs and outputs of a prediction as the framework's dictionaries of features.

use candle_core::{DType, Device, Tensor};
use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint};
use indexmap::IndexMap;
use objc2::AllocAnyThread;
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_core_ml::{
    MLDictionaryFeatureProvider, MLFeatureProvider, MLFeatureType, MLFeatureValue, MLMultiArray, MLSequence,
};
use objc2_core_video::CVPixelBuffer;
use objc2_foundation::{NSArray, NSDictionary, NSNumber, NSString};

use super::array;
use super::foundation::failure;
use super::pixel_buffer::{self, pixels};
use super::surface::{Pool, SurfaceArray};
use crate::array::{ArrayType, Buffer};
use crate::error::NativeError;
use crate::inputs::{Declared, Locked, Memory, check_location, prepare, prepare_owned};
use crate::lend::Lender;
use crate::pixels::{PixelFormat, channels};
use crate::shape;
use crate::values::{Input, Key, Output, elements, integers, only};

/// Inputs by name.
pub(super) type Named<'a> = [(&'a str, Input<'a>)];

/// Inputs of one prediction, ready for the framework.
pub(super) type Provider = Retained<ProtocolObject<dyn MLFeatureProvider>>;

/// The inputs that a caller gives.
pub(super) fn named<'a, I: Copy + Into<Input<'a>>>(inputs: &[(&'a str, I)]) -> Vec<(&'a str, Input<'a>)> {
    inputs.iter().map(|(name, input)| (*name, (*input).into())).collect()
}

/// Tensors that are lent to Core ML, so that one can tell when it has let go of them.
pub(super) type Lent = Vec<Lender<Tensor>>;

/// Checks the names of inputs: all known, each once, and none missing that the model needs.
pub(super) fn check_names(described: &FunctionDescription, inputs: &Named<'_>) -> Result<(), NativeError> {
    let names = || described.inputs.iter().map(|f| f.name.clone()).collect();
    for (i, (name, _)) in inputs.iter().enumerate() {
        if described.input(name).is_none() {
            return Err(NativeError::Unknown { what: "input", name: (*name).to_owned(), available: names() });
        }
        if inputs[..i].iter().any(|(other, _)| other == name) {
            return Err(NativeError::feature(name, "one value", "two"));
        }
    }
    let given = |f: &FeatureDescription| inputs.iter().any(|(name, _)| *name == f.name);
    match described.inputs.iter().find(|f| !f.optional && !given(f)) {
        Some(f) => Err(NativeError::feature(&f.name, "a value, as the input is not optional", "none")),
        None => Ok(()),
    }
}

/// Tensors where Core ML can read them, and everything else as it is: the first are to be borrowed by the inputs.
///
/// # Errors
/// Tensors on devices whose memory Core ML can't reach.
pub(super) fn reachable(inputs: &Named<'_>) -> Result<Vec<Option<Tensor>>, NativeError> {
    let one = |(name, input): &(&str, Input<'_>)| match input {
        Input::Tensor(tensor) => {
            check_location(name, tensor.device().location())?;
            #[cfg(feature = "metal")]
            let tensor = super::metal::reachable(tensor)?;
            #[cfg(not(feature = "metal"))]
            let tensor = Tensor::clone(tensor);
            Ok(Some(tensor))
        }
        _ => Ok(None),
    };
    inputs.iter().map(one).collect()
}

/// The inputs with these tensors in place of their own.
pub(super) fn placed<'a>(inputs: &Named<'a>, tensors: &'a [Option<Tensor>]) -> Vec<(&'a str, Input<'a>)> {
    let one = |((name, input), tensor): (&(&'a str, Input<'a>), &'a Option<Tensor>)| {
        (*name, tensor.as_ref().map_or(*input, Input::Tensor))
    };
    inputs.iter().zip(tensors).map(one).collect()
}

/// Element type and only shape of an array feature.
fn declared(feature: &FeatureDescription) -> Option<(ArrayType, Option<&[usize]>)> {
    match &feature.ty {
        FeatureType::MultiArray { dtype, shape, constraint, .. } => {
            let fixed = (*constraint == ShapeConstraint::Fixed).then_some(shape.as_slice());
            Some((ArrayType::from_data_type(*dtype)?, fixed))
        }
        _ => None,
    }
}

/// How arrays are handed over by a prediction that blocks.
pub(super) struct Borrowing<'l> {
    /// Locks on the tensors among the inputs, in their order.
    pub(super) locked: &'l Locked<'l>,
    /// Whether tensors may be lent.
    pub(super) lend: bool,
    /// Surfaces of inputs, where they are of use.
    pub(super) surfaces: Option<&'l mut Pool>,
    /// Gets a lender for each tensor that is lent.
    pub(super) lent: &'l mut Lent,
}

/// Inputs that Core ML may use until the locks are given up: in surfaces where they suit, else lent where they fit.
pub(super) fn borrowed(
    described: &FunctionDescription,
    inputs: &Named<'_>,
    mut borrowing: Borrowing<'_>,
) -> Result<Provider, NativeError> {
    let mut values = Vec::with_capacity(inputs.len());
    let mut position = 0;
    for (name, input) in inputs {
        let value = value(described, name, *input, |declared, tensor| borrowing.array(declared, tensor, position))?;
        position += usize::from(matches!(input, Input::Tensor(_)));
        values.push((*name, value));
    }
    provider(&values)
}

impl Borrowing<'_> {
    fn array(
        &mut self,
        declared: Declared<'_>,
        tensor: &Tensor,
        position: usize,
    ) -> Result<Retained<MLMultiArray>, NativeError> {
        let name = declared.name;
        let ready = prepare(declared, tensor, self.locked, position, self.lend)?;
        // A surface costs one copy by rows, and saves Core ML its own. Metal's memory is shared as it is.
        if tensor.device().is_cpu()
            && let Some(pool) = &mut self.surfaces
            && let Some(surface) = pool.get(name, ready.ty, &ready.shape)
        {
            surface.write(name, ready.memory.elements())?;
            return Ok(surface.array().clone());
        }
        match ready.memory {
            Memory::Copied(buffer) => over_buffer(name, &ready.shape, buffer),
            Memory::Lent(elements) => {
                let lender = Lender::new(tensor.clone());
                let loan = lender.lend().map_err(|e| NativeError::feature(name, "a tensor at hand", e.to_string()))?;
                self.lent.push(lender);
                // SAFETY: `prepare` found as many dense elements of this type as the shape has. The loan holds a
                // clone of the tensor and with it the storage; the caller holds the read lock until the prediction
                // is over, after which Core ML keeps the array but reads it no more.
                unsafe { array::over(name, ready.ty, &ready.shape, elements.address(), loan) }
            }
        }
    }
}

/// Inputs that outlive the call: copied.
pub(super) fn copied(described: &FunctionDescription, inputs: &Named<'_>) -> Result<Provider, NativeError> {
    let tensors = reachable(inputs)?;
    let mut values = Vec::with_capacity(inputs.len());
    for (name, input) in placed(inputs, &tensors) {
        let value = value(described, name, input, |declared, tensor| {
            let (shape, buffer) = prepare_owned(declared, tensor)?;
            over_buffer(name, &shape, buffer)
        })?;
        values.push((name, value));
    }
    provider(&values)
}

fn over_buffer(name: &str, shape: &[usize], buffer: Buffer) -> Result<Retained<MLMultiArray>, NativeError> {
    // The elements stay where they are when the buffer is moved.
    let (ty, pointer) = (buffer.array_type(), buffer.as_slice().address());
    let loan = Lender::new(buffer).lend().map_err(|e| NativeError::feature(name, "a buffer", e.to_string()))?;
    // SAFETY: a dense buffer with as many elements as the shape has; the loan is its only owner, so that nothing
    // changes it, and moving it does not move its elements.
    unsafe { array::over(name, ty, shape, pointer, loan) }
}

/// One input as a feature value.
fn value(
    described: &FunctionDescription,
    name: &str,
    input: Input<'_>,
    array: impl FnOnce(Declared<'_>, &Tensor) -> Result<Retained<MLMultiArray>, NativeError>,
) -> Result<Retained<MLFeatureValue>, NativeError> {
    let unknown = || NativeError::Unknown { what: "input", name: name.to_owned(), available: Vec::new() };
    let feature = described.input(name).ok_or_else(unknown)?;
    let unfit = || NativeError::feature(name, feature.ty.in_words(), input.kind());
    let tensor = match (&feature.ty, input) {
        (_, Input::Tensor(tensor)) => tensor,
        (FeatureType::String, Input::Text(text)) => {
            // SAFETY: rule 1; the value copies or retains the string, here and below.
            return Ok(unsafe { MLFeatureValue::featureValueWithString(&NSString::from_str(text)) });
        }
        (FeatureType::Sequence { ints: false }, Input::Texts(texts)) => {
            let texts: Vec<_> = texts.iter().map(|text| NSString::from_str(text)).collect();
            // SAFETY: as above.
            return Ok(unsafe {
                let sequence = MLSequence::sequenceWithStringArray(&NSArray::from_retained_slice(&texts));
                MLFeatureValue::featureValueWithSequence(&sequence)
            });
        }
        (FeatureType::Dictionary { int_keys }, Input::Dictionary(entries)) => {
            return dictionary(name, *int_keys, entries);
        }
        _ => return Err(unfit()),
    };
    shape::check(feature, tensor.dims())?;
    if let Some((ty, fixed)) = declared(feature) {
        let array = array(Declared { name, ty, shape: fixed }, tensor)?;
        // SAFETY: rule 1; the value retains the array.
        return Ok(unsafe { MLFeatureValue::featureValueWithMultiArray(&array) });
    }
    match feature.ty {
        FeatureType::Double => {
            let number = only(name, &elements(&tensor.to_dtype(DType::F64)?)?)?;
            // SAFETY: a value from a number.
            Ok(unsafe { MLFeatureValue::featureValueWithDouble(number) })
        }
        FeatureType::Int64 => {
            let number = only(name, &integers(name, tensor)?)?;
            // SAFETY: as above.
            Ok(unsafe { MLFeatureValue::featureValueWithInt64(number) })
        }
        FeatureType::Image { layout, .. } => image(name, layout, tensor),
        FeatureType::Sequence { ints: true } => {
            let numbers: Vec<_> = integers(name, tensor)?.into_iter().map(NSNumber::new_i64).collect();
            // SAFETY: rule 1, an array of integers; the value retains the sequence.
            Ok(unsafe {
                let sequence = MLSequence::sequenceWithInt64Array(&NSArray::from_retained_slice(&numbers));
                MLFeatureValue::featureValueWithSequence(&sequence)
            })
        }
        _ => Err(unfit()),
    }
}

/// An image in the order of bytes that all processors take; Core ML converts it to the model's.
fn image(name: &str, layout: ColorLayout, tensor: &Tensor) -> Result<Retained<MLFeatureValue>, NativeError> {
    let &[_, _, height, width] = tensor.dims() else {
        return Err(NativeError::feature(name, "an image, of four dimensions", format!("{:?}", tensor.dims())));
    };
    let samples: Vec<f32> = elements(&tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)?;
    let format = PixelFormat::of(layout);
    let buffer = pixel_buffer::create(name, format, width, height)?;
    // SAFETY: a new buffer, which nobody else knows.
    unsafe {
        pixel_buffer::write(name, &buffer, format.bytes(), |rows, bytes| {
            rows.pack(&samples, layout, format, bytes).map_err(|source| pixels(name, source))
        })?;
    }
    // SAFETY: rule 1; the value retains the buffer.
    Ok(unsafe { MLFeatureValue::featureValueWithPixelBuffer(&buffer) })
}

/// Numbers by keys of the declared type.
fn dictionary(name: &str, int_keys: bool, entries: &[(Key, f64)]) -> Result<Retained<MLFeatureValue>, NativeError> {
    let numbers: Vec<_> = entries.iter().map(|(_, number)| NSNumber::new_f64(*number)).collect();
    let unfit = || {
        let expected = if int_keys { "keys that are integers" } else { "keys that are strings" };
        NativeError::feature(name, expected, "another key")
    };
    let dictionary: Retained<NSDictionary<AnyObject, NSNumber>> = if int_keys {
        let key = |key: &Key| if let Key::Int(n) = key { Some(NSNumber::new_i64(*n)) } else { None };
        let keys = entries.iter().map(|(k, _)| key(k)).collect::<Option<Vec<_>>>().ok_or_else(unfit)?;
        let keys: Vec<&NSNumber> = keys.iter().map(|k| &**k).collect();
        let typed = NSDictionary::from_retained_objects(&keys, &numbers);
        // SAFETY: keys of any type are objects.
        unsafe { Retained::cast_unchecked(typed) }
    } else {
        let key = |key: &Key| if let Key::Text(text) = key { Some(NSString::from_str(text)) } else { None };
        let keys = entries.iter().map(|(k, _)| key(k)).collect::<Option<Vec<_>>>().ok_or_else(unfit)?;
        let keys: Vec<&NSString> = keys.iter().map(|k| &**k).collect();
        let typed = NSDictionary::from_retained_objects(&keys, &numbers);
        // SAFETY: as above.
        unsafe { Retained::cast_unchecked(typed) }
    };
    // SAFETY: rule 1, strings or integers as keys and numbers as values.
    unsafe { MLFeatureValue::featureValueWithDictionary_error(&dictionary) }
        .map_err(|e| failure(format!("passing the dictionary `{name}`"), &e))
}

fn provider(values: &[(&str, Retained<MLFeatureValue>)]) -> Result<Provider, NativeError> {
    let names: Vec<_> = values.iter().map(|(name, _)| NSString::from_str(name)).collect();
    let keys: Vec<&NSString> = names.iter().map(|name| &**name).collect();
    let objects: Vec<Retained<AnyObject>> = values.iter().map(|(_, value)| value.clone().into()).collect();
    let dictionary = NSDictionary::from_retained_objects(&keys, &objects);
    let empty = MLDictionaryFeatureProvider::alloc();
    // SAFETY: rule 1, a dictionary from names to feature values.
    let provider = unsafe { MLDictionaryFeatureProvider::initWithDictionary_error(empty, &dictionary) }
        .map_err(|e| failure("collecting the inputs", &e))?;
    Ok(ProtocolObject::from_retained(provider))
}

/// Arrays that live as long as the model, for outputs of fixed shape.
pub(super) struct Backings {
    /// The arrays by name, for the framework.
    pub(super) arrays: Retained<NSDictionary<NSString, AnyObject>>,
    /// Those that lie in surfaces.
    surfaces: Vec<(String, SurfaceArray)>,
}

impl Backings {
    /// Arrays for the outputs, in surfaces where these are of use; `None` when no output has a fixed shape.
    pub(super) fn new(described: &FunctionDescription, in_surfaces: bool) -> Result<Option<Self>, NativeError> {
        let (mut names, mut arrays, mut surfaces) = (Vec::new(), Vec::<Retained<AnyObject>>::new(), Vec::new());
        for output in &described.outputs {
            let Some((ty, Some(shape))) = declared(output) else { continue };
            names.push(NSString::from_str(&output.name));
            match in_surfaces.then(|| SurfaceArray::new(&output.name, ty, shape)).flatten() {
                Some(surface) => {
                    arrays.push(surface.array().clone().into());
                    surfaces.push((output.name.clone(), surface));
                }
                None => arrays.push(array::owned(&output.name, ty, shape)?.into()),
            }
        }
        let keys: Vec<&NSString> = names.iter().map(|name| &**name).collect();
        let backings = || Self { arrays: NSDictionary::from_retained_objects(&keys, &arrays), surfaces };
        Ok((!keys.is_empty()).then(backings))
    }

    /// The surface of an output, if the framework has written this very array.
    fn surface(&self, name: &str, array: &MLMultiArray) -> Option<&SurfaceArray> {
        let (_, surface) = self.surfaces.iter().find(|(known, _)| known == name)?;
        std::ptr::eq(Retained::as_ptr(surface.array()), array).then_some(surface)
    }
}

/// Every output that the description names.
///
/// # Errors
/// Outputs that are missing or of types without words here.
pub(super) fn outputs(
    described: &FunctionDescription,
    features: &ProtocolObject<dyn MLFeatureProvider>,
    backings: Option<&Backings>,
) -> Result<IndexMap<String, Output>, NativeError> {
    let mut all = IndexMap::with_capacity(described.outputs.len());
    for feature in &described.outputs {
        let name = &feature.name;
        // SAFETY: rule 1, the name of an output; the provider is the prediction's result.
        let value = unsafe { features.featureValueForName(&NSString::from_str(name)) };
        let value = value.ok_or_else(|| NativeError::feature(name, "an output", "none"))?;
        all.insert(name.clone(), output(feature, &value, backings)?);
    }
    Ok(all)
}

fn output(
    feature: &FeatureDescription,
    value: &MLFeatureValue,
    backings: Option<&Backings>,
) -> Result<Output, NativeError> {
    let name = &feature.name;
    let none = |what: &str| NativeError::feature(name, what, "none");
    // SAFETY: getters of an immutable value; each is asked only for the kind that it has.
    unsafe {
        Ok(match value.r#type() {
            MLFeatureType::MultiArray => {
                let array = value.multiArrayValue().ok_or_else(|| none("an array"))?;
                let (shape, buffer) = match backings.and_then(|b| b.surface(name, &array)) {
                    Some(surface) => (array::kind(name, &array)?.1, surface.read(name)?),
                    None => array::read(name, &array)?,
                };
                Output::Tensor(buffer.into_tensor(shape)?)
            }
            MLFeatureType::Image => {
                let buffer = value.imageBufferValue().ok_or_else(|| none("an image"))?;
                Output::Tensor(image_tensor(feature, &buffer)?)
            }
            MLFeatureType::Sequence => {
                let sequence = value.sequenceValue().ok_or_else(|| none("a sequence"))?;
                if sequence.r#type() == MLFeatureType::Int64 {
                    let numbers: Vec<i64> = sequence.int64Values().iter().map(|n| n.as_i64()).collect();
                    let length = numbers.len();
                    Output::Tensor(Tensor::from_vec(numbers, length, &Device::Cpu)?)
                } else {
                    Output::Texts(sequence.stringValues().iter().map(|s| s.to_string()).collect())
                }
            }
            MLFeatureType::Int64 => Output::Tensor(Tensor::new(value.int64Value(), &Device::Cpu)?),
            MLFeatureType::Double => Output::Tensor(Tensor::new(value.doubleValue(), &Device::Cpu)?),
            MLFeatureType::String => Output::Text(value.stringValue().to_string()),
            MLFeatureType::Dictionary => Output::Dictionary(entries(name, &value.dictionaryValue())?),
            other => {
                let expected = "a feature type that this version knows";
                return Err(NativeError::feature(name, expected, format!("type {}", other.0)));
            }
        })
    }
}

/// The samples of an image, `[1, channels, height, width]`, channels in the order of the model's layout.
fn image_tensor(feature: &FeatureDescription, buffer: &CVPixelBuffer) -> Result<Tensor, NativeError> {
    let (name, FeatureType::Image { layout, .. }) = (&feature.name, &feature.ty) else {
        return Err(NativeError::feature(&feature.name, feature.ty.in_words(), "an image"));
    };
    let format = pixel_buffer::format(name, buffer)?;
    let (rows, samples) = pixel_buffer::read(name, buffer, format.bytes(), |rows, bytes| {
        Ok((rows, rows.unpack(bytes, format, *layout).map_err(|source| pixels(name, source))?))
    })?;
    let tensor = Tensor::from_vec(samples, (1, channels(*layout), rows.height, rows.width), &Device::Cpu)?;
    Ok(if *layout == ColorLayout::GrayscaleFloat16 { tensor.to_dtype(DType::F16)? } else { tensor })
}

/// The entries of a dictionary, in the order of their keys: the framework's has none.
fn entries(name: &str, dictionary: &NSDictionary<AnyObject, NSNumber>) -> Result<Vec<(Key, f64)>, NativeError> {
    let (keys, values) = dictionary.to_vecs();
    let key = |object: &AnyObject| {
        let text = object.downcast_ref::<NSString>().map(|s| Key::Text(s.to_string()));
        let key = text.or_else(|| object.downcast_ref::<NSNumber>().map(|n| Key::Int(n.as_i64())));
        key.ok_or_else(|| NativeError::feature(name, "keys that are strings or integers", "another key"))
    };
    let pairs = keys.iter().zip(&values).map(|(k, v)| Ok((key(k)?, v.as_f64())));
    let mut entries = pairs.collect::<Result<Vec<_>, NativeError>>()?;
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::dtype::DataType;

    fn feature(name: &str, ty: FeatureType) -> FeatureDescription {
        FeatureDescription { name: name.to_owned(), description: String::new(), ty, optional: false }
    }

    /// What the framework is given, read back by its own getters.
    fn back(ty: FeatureType, input: Input<'_>) -> Result<Output, NativeError> {
        let features = vec![feature("x", ty)];
        let described = FunctionDescription { inputs: features.clone(), outputs: features, ..Default::default() };
        let provider = copied(&described, &[("x", input)])?;
        Ok(outputs(&described, &provider, None)?.swap_remove("x").expect("the only output"))
    }

    fn numbers(output: &Output) -> Vec<f64> {
        let Output::Tensor(tensor) = output else { panic!("{output:?}") };
        elements(&tensor.to_dtype(DType::F64).expect("numbers")).expect("numbers")
    }

    #[test]
    fn images_come_back_in_every_layout() {
        let (height, width) = (3, 5);
        for layout in [ColorLayout::Rgb, ColorLayout::Bgr, ColorLayout::Grayscale, ColorLayout::GrayscaleFloat16] {
            let count = channels(layout) * height * width;
            let samples: Vec<f32> = (0..count).map(|i| (i * 5) as f32).collect();
            let image = Tensor::from_vec(samples.clone(), (1, channels(layout), height, width), &Device::Cpu);
            let image = image.expect("an image");
            let ty = FeatureType::Image { layout, width, height, sizes: ShapeConstraint::Fixed };
            let output = back(ty.clone(), Input::Tensor(&image)).expect("an image");
            assert_eq!(numbers(&output), samples.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), "{layout:?}");
            let Output::Tensor(tensor) = &output else { panic!("{output:?}") };
            assert_eq!(tensor.dims(), image.dims());
            let half = layout == ColorLayout::GrayscaleFloat16;
            assert_eq!(tensor.dtype(), if half { DType::F16 } else { DType::F32 });
            let bright = (image * 100.0).expect("an image");
            assert_eq!(back(ty, Input::Tensor(&bright)).is_ok(), half, "{layout:?}: bytes end at 255");
        }
    }

    #[test]
    fn sequences_strings_numbers_and_dictionaries_come_back() {
        let integers = Tensor::new(&[3_i64, -1, i64::MAX], &Device::Cpu).expect("integers");
        let ints = back(FeatureType::Sequence { ints: true }, Input::Tensor(&integers)).expect("a sequence");
        let Output::Tensor(ints) = ints else { panic!("{ints:?}") };
        assert_eq!(ints.to_vec1::<i64>().expect("integers"), [3, -1, i64::MAX]);
        let texts = ["a".to_owned(), "ä 日".to_owned()];
        let ty = FeatureType::Sequence { ints: false };
        let Output::Texts(read) = back(ty.clone(), Input::Texts(&texts)).expect("a sequence") else { panic!() };
        assert_eq!(read, texts);
        assert!(back(ty, Input::Text("a")).is_err(), "a string is no sequence");
        let Output::Text(read) = back(FeatureType::String, Input::Text("ß")).expect("a string") else { panic!() };
        assert_eq!(read, "ß");
        let one = Tensor::new(7_i64, &Device::Cpu).expect("a number");
        assert_eq!(numbers(&back(FeatureType::Int64, Input::Tensor(&one)).expect("a number")), [7.0]);
        assert_eq!(numbers(&back(FeatureType::Double, Input::Tensor(&one)).expect("a number")), [7.0]);
        for (int_keys, keys) in
            [(true, [Key::Int(-1), Key::Int(2)]), (false, [Key::Text("a".to_owned()), Key::Text("b".to_owned())])]
        {
            let entries = keys.map(|key| (key, 0.5));
            let ty = |int_keys| FeatureType::Dictionary { int_keys };
            let Output::Dictionary(read) = back(ty(int_keys), Input::Dictionary(&entries)).expect("a dictionary")
            else {
                panic!()
            };
            assert_eq!(read, entries);
            assert!(back(ty(!int_keys), Input::Dictionary(&entries)).is_err(), "keys of the other type");
        }
    }

    #[test]
    fn arrays_come_back_in_every_type() {
        for (dtype, ty) in [(DataType::F16, DType::F16), (DataType::F32, DType::F32), (DataType::I32, DType::I32)] {
            let tensor = Tensor::arange(0_i64, 12, &Device::Cpu).and_then(|t| t.reshape((3, 4))?.t()?.to_dtype(ty));
            let tensor = tensor.expect("a tensor");
            let array =
                FeatureType::MultiArray { dtype, shape: vec![4, 3], constraint: ShapeConstraint::Fixed, default: None };
            let output = back(array, Input::Tensor(&tensor)).expect("an array");
            assert_eq!(numbers(&output), numbers(&Output::Tensor(tensor)), "{dtype}");
        }
    }
}
