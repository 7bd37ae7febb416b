//! Converts inputs to the framework's feature provider.

use candle_core::Tensor;
use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint};
use coreml_values::{DictionaryKey, FeatureValue};
use objc2::AllocAnyThread;
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_core_ml::{MLDictionaryFeatureProvider, MLFeatureProvider, MLFeatureValue, MLMultiArray, MLSequence};
use objc2_foundation::{NSArray, NSDictionary, NSNumber, NSString};

use super::array;
use super::foundation::failure;
use super::handed::NativeArray;
use super::pixel_buffer::{self, pixels};
use super::surface::Pool;
use crate::array::{ArrayType, Buffer};
use crate::error::NativeError;
use crate::inputs::{Declared, Locked, Memory, check_location, prepare, prepare_owned};
use crate::lend::{Receipt, lend};
use crate::pixels::PixelFormat;
use crate::shape;
use crate::values::{doubles, integers, only, singles};

/// Inputs by name; numbers are tensors.
pub(super) type Named<'a> = [(&'a str, FeatureValue)];

/// Inputs of one prediction, in the framework's form.
pub(super) type Provider = Retained<ProtocolObject<dyn MLFeatureProvider>>;

/// Converts the caller's inputs.
///
/// # Errors
/// If a number cannot be converted to a tensor.
pub(super) fn named<'a, I: Clone + Into<FeatureValue>>(
    inputs: &[(&'a str, I)],
) -> Result<Vec<(&'a str, FeatureValue)>, NativeError> {
    let ready = |(name, input): &(&'a str, I)| {
        let value = input.clone().into();
        Ok((*name, value.numbers_as_tensor()?.map_or(value, FeatureValue::Tensor)))
    };
    inputs.iter().map(ready).collect()
}

/// Tensors lent to Core ML, to track their release.
pub(super) type Lent = Vec<Receipt>;

/// Checks the names of inputs, with that of an array of another model: all known, no duplicates, and no required input
/// missing.
pub(super) fn check_names(
    described: &FunctionDescription,
    inputs: &Named<'_>,
    handed: Option<&str>,
) -> Result<(), NativeError> {
    let available = || described.inputs.iter().map(|f| f.name.clone()).collect();
    let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).chain(handed).collect();
    for (i, name) in names.iter().enumerate() {
        if described.input(name).is_none() {
            return Err(NativeError::Unknown { what: "input", name: (*name).to_owned(), available: available() });
        }
        if names[..i].contains(name) {
            return Err(NativeError::feature(name, "one value", "two"));
        }
    }
    let given = |f: &FeatureDescription| names.contains(&f.name.as_str());
    match described.inputs.iter().find(|f| !f.optional && !given(f)) {
        Some(f) => Err(NativeError::feature(&f.name, "a value, as the input is not optional", "none")),
        None => Ok(()),
    }
}

/// Moves input tensors to memory that Core ML can read.
///
/// # Errors
/// If a tensor is on a device whose memory Core ML cannot access.
pub(super) fn reachable<'a>(inputs: &Named<'a>) -> Result<Vec<(&'a str, FeatureValue)>, NativeError> {
    let one = |(name, input): &(&'a str, FeatureValue)| match input {
        FeatureValue::Tensor(tensor) => {
            check_location(name, tensor.device().location())?;
            #[cfg(feature = "metal")]
            let tensor = super::metal::reachable(tensor)?;
            #[cfg(not(feature = "metal"))]
            let tensor = Tensor::clone(tensor);
            Ok((*name, FeatureValue::Tensor(tensor)))
        }
        other => Ok((*name, other.clone())),
    };
    inputs.iter().map(one).collect()
}

/// Element type of an array feature, and its shape if fixed.
pub(super) fn declared(feature: &FeatureDescription) -> Option<(ArrayType, Option<&[usize]>)> {
    match &feature.ty {
        FeatureType::MultiArray { dtype, shape, constraint, .. } => {
            let fixed = (*constraint == ShapeConstraint::Fixed).then_some(shape.as_slice());
            Some((ArrayType::from_data_type(*dtype)?, fixed))
        }
        _ => None,
    }
}

/// Options for passing arrays to a blocking prediction.
pub(super) struct Borrowing<'l> {
    /// Locks on the tensors of [`arrays`], in the same order.
    pub(super) locked: &'l Locked<'l>,
    /// True if tensors may be lent.
    pub(super) lend: bool,
    /// Input surfaces, if they are useful.
    pub(super) surfaces: Option<&'l mut Pool>,
    /// Receives a receipt for each tensor lent.
    pub(super) lent: &'l mut Lent,
}

/// Inputs as feature values; `None` for arrays, which are converted last: no Candle operation may read a tensor once it
/// is locked.
pub(super) type Values = Vec<Option<Retained<MLFeatureValue>>>;

/// Tensors to be passed as arrays, in input order.
pub(super) fn arrays<'i>(inputs: &'i Named<'_>, values: &Values) -> Vec<&'i Tensor> {
    let arrays = inputs.iter().zip(values).filter(|(_, value)| value.is_none());
    arrays.filter_map(|((_, input), _)| input.tensor()).collect()
}

/// Inputs valid until the locks are released: in surfaces where possible, else lent where possible.
pub(super) fn borrowed(
    described: &FunctionDescription,
    inputs: &Named<'_>,
    values: Values,
    handed: Option<(&str, &NativeArray)>,
    mut borrowing: Borrowing<'_>,
) -> Result<Provider, NativeError> {
    let mut position = 0;
    provider(described, inputs, values, handed, |declared, tensor| {
        position += 1;
        borrowing.array(declared, tensor, position - 1)
    })
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
        // A surface costs one row-wise copy and saves Core ML its own. Metal memory is shared already.
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
                let (loan, receipt) = lend(tensor.clone());
                self.lent.push(receipt);
                // SAFETY: `prepare` found as many dense elements of this type as the shape has. The loan holds a clone
                // of the tensor and with it the storage; the caller holds the read lock until the prediction is over,
                // after which Core ML keeps the array but no longer reads it.
                unsafe { array::over(name, ready.ty, &ready.shape, elements.address(), loan) }
            }
        }
    }
}

/// Inputs that outlive the call: copied.
pub(super) fn copied(described: &FunctionDescription, inputs: &Named<'_>) -> Result<Provider, NativeError> {
    let inputs = reachable(inputs)?;
    let values = plain(described, &inputs)?;
    provider(described, &inputs, values, None, |declared, tensor| {
        let (shape, buffer) = prepare_owned(declared, tensor)?;
        over_buffer(declared.name, &shape, buffer)
    })
}

fn over_buffer(name: &str, shape: &[usize], buffer: Buffer) -> Result<Retained<MLMultiArray>, NativeError> {
    // Moving the buffer does not move its elements.
    let (ty, pointer) = (buffer.array_type(), buffer.as_slice().address());
    let (loan, _) = lend(buffer);
    // SAFETY: a dense buffer with as many elements as the shape has; the loan is its only owner, so nothing changes it,
    // and moving it does not move its elements.
    unsafe { array::over(name, ty, shape, pointer, loan) }
}

/// Converts all inputs except arrays to feature values; checks the shapes of arrays.
pub(super) fn plain(described: &FunctionDescription, inputs: &Named<'_>) -> Result<Values, NativeError> {
    inputs.iter().map(|(name, input)| value(named_input(described, name)?, input)).collect()
}

fn named_input<'d>(described: &'d FunctionDescription, name: &str) -> Result<&'d FeatureDescription, NativeError> {
    let unknown = || NativeError::Unknown { what: "input", name: name.to_owned(), available: Vec::new() };
    described.input(name).ok_or_else(unknown)
}

/// Converts one input to a feature value; `None` for arrays.
fn value(feature: &FeatureDescription, input: &FeatureValue) -> Result<Option<Retained<MLFeatureValue>>, NativeError> {
    let name = feature.name.as_str();
    let unfit = || NativeError::feature(name, feature.ty.in_words(), input.kind());
    let tensor = match (&feature.ty, input) {
        (_, FeatureValue::Tensor(tensor)) => tensor,
        (FeatureType::String, FeatureValue::String(text)) => {
            // SAFETY: rule 1; the value copies or retains the string, here and below.
            return Ok(Some(unsafe { MLFeatureValue::featureValueWithString(&NSString::from_str(text)) }));
        }
        (FeatureType::Sequence { ints: false }, FeatureValue::Strings(texts)) => {
            let texts: Vec<_> = texts.iter().map(|text| NSString::from_str(text)).collect();
            // SAFETY: as above.
            return Ok(Some(unsafe {
                let sequence = MLSequence::sequenceWithStringArray(&NSArray::from_retained_slice(&texts));
                MLFeatureValue::featureValueWithSequence(&sequence)
            }));
        }
        (FeatureType::Dictionary { int_keys }, FeatureValue::Dictionary(entries)) => {
            return dictionary(name, *int_keys, entries).map(Some);
        }
        _ => return Err(unfit()),
    };
    shape::check(feature, tensor.dims())?;
    Ok(Some(match feature.ty {
        FeatureType::MultiArray { .. } => return Ok(None),
        FeatureType::Double => {
            let number = only(name, &doubles(name, tensor)?)?;
            // SAFETY: a value from a number.
            unsafe { MLFeatureValue::featureValueWithDouble(number) }
        }
        FeatureType::Int64 => {
            let number = only(name, &integers(name, tensor)?)?;
            // SAFETY: as above.
            unsafe { MLFeatureValue::featureValueWithInt64(number) }
        }
        FeatureType::Image { layout, .. } => image(name, layout, tensor)?,
        FeatureType::Sequence { ints: true } => {
            let numbers: Vec<_> = integers(name, tensor)?.into_iter().map(NSNumber::new_i64).collect();
            // SAFETY: rule 1, an array of integers; the value retains the sequence.
            unsafe {
                let sequence = MLSequence::sequenceWithInt64Array(&NSArray::from_retained_slice(&numbers));
                MLFeatureValue::featureValueWithSequence(&sequence)
            }
        }
        _ => return Err(unfit()),
    }))
}

/// An image in a pixel format that all processors accept; Core ML converts it to the model's.
fn image(name: &str, layout: ColorLayout, tensor: &Tensor) -> Result<Retained<MLFeatureValue>, NativeError> {
    let &[_, _, height, width] = tensor.dims() else {
        return Err(NativeError::feature(name, "an image, of four dimensions", format!("{:?}", tensor.dims())));
    };
    let samples = singles(name, tensor)?;
    let format = PixelFormat::of(layout);
    let buffer = pixel_buffer::create(name, format, width, height)?;
    // SAFETY: a new buffer, not shared yet.
    unsafe {
        pixel_buffer::write(name, &buffer, format.bytes(), |rows, bytes| {
            rows.pack(&samples, layout, format, bytes).map_err(|source| pixels(name, source))
        })?;
    }
    // SAFETY: rule 1; the value retains the buffer.
    Ok(unsafe { MLFeatureValue::featureValueWithPixelBuffer(&buffer) })
}

/// Dictionary with keys of the declared type and numeric values.
fn dictionary(
    name: &str,
    int_keys: bool,
    entries: &[(DictionaryKey, f64)],
) -> Result<Retained<MLFeatureValue>, NativeError> {
    let numbers: Vec<_> = entries.iter().map(|(_, number)| NSNumber::new_f64(*number)).collect();
    let unfit = || {
        let expected = if int_keys { "keys that are integers" } else { "keys that are strings" };
        NativeError::feature(name, expected, "another key")
    };
    let dictionary: Retained<NSDictionary<AnyObject, NSNumber>> = if int_keys {
        let key =
            |key: &DictionaryKey| if let DictionaryKey::Int(n) = key { Some(NSNumber::new_i64(*n)) } else { None };
        let keys = entries.iter().map(|(k, _)| key(k)).collect::<Option<Vec<_>>>().ok_or_else(unfit)?;
        let keys: Vec<&NSNumber> = keys.iter().map(|k| &**k).collect();
        let typed = NSDictionary::from_retained_objects(&keys, &numbers);
        // SAFETY: keys of any type are objects.
        unsafe { Retained::cast_unchecked(typed) }
    } else {
        let key = |key: &DictionaryKey| {
            if let DictionaryKey::String(text) = key { Some(NSString::from_str(text)) } else { None }
        };
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

/// Builds the feature provider; `array` creates the arrays, in input order, and one may be another model's.
fn provider(
    described: &FunctionDescription,
    inputs: &Named<'_>,
    values: Values,
    handed: Option<(&str, &NativeArray)>,
    mut array: impl FnMut(Declared<'_>, &Tensor) -> Result<Retained<MLMultiArray>, NativeError>,
) -> Result<Provider, NativeError> {
    let (mut names, mut objects) = (Vec::new(), Vec::<Retained<AnyObject>>::new());
    for ((name, input), value) in inputs.iter().zip(values) {
        let value = match (value, input) {
            (Some(value), _) => value,
            (None, FeatureValue::Tensor(tensor)) => {
                let feature = named_input(described, name)?;
                let unknown = || NativeError::feature(name, "an element type of arrays", format!("{:?}", feature.ty));
                let (ty, shape) = declared(feature).ok_or_else(unknown)?;
                let array = array(Declared { name, ty, shape }, tensor)?;
                // SAFETY: rule 1; the value retains the array.
                unsafe { MLFeatureValue::featureValueWithMultiArray(&array) }
            }
            (None, _) => return Err(NativeError::feature(name, "a tensor", input.kind())),
        };
        names.push(NSString::from_str(name));
        objects.push(value.into());
    }
    if let Some((name, array)) = handed {
        names.push(NSString::from_str(name));
        // SAFETY: rule 1; the value retains the array.
        objects.push(unsafe { MLFeatureValue::featureValueWithMultiArray(array.object()) }.into());
    }
    let keys: Vec<&NSString> = names.iter().map(|name| &**name).collect();
    let dictionary = NSDictionary::from_retained_objects(&keys, &objects);
    let empty = MLDictionaryFeatureProvider::alloc();
    // SAFETY: rule 1, a dictionary from names to feature values.
    let provider = unsafe { MLDictionaryFeatureProvider::initWithDictionary_error(empty, &dictionary) }
        .map_err(|e| failure("collecting the inputs", &e))?;
    Ok(ProtocolObject::from_retained(provider))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apple::results::outputs;
    use crate::pixels::channels;
    use crate::report::BackingUse;
    use crate::values::elements;
    use candle_core::{DType, Device};
    use coreml_format::dtype::DataType;

    fn feature(name: &str, ty: FeatureType) -> FeatureDescription {
        FeatureDescription { name: name.to_owned(), description: String::new(), ty, optional: false }
    }

    /// Converts to the framework's value and back.
    fn back(ty: FeatureType, input: impl Clone + Into<FeatureValue>) -> Result<FeatureValue, NativeError> {
        let features = vec![feature("x", ty)];
        let described = FunctionDescription { inputs: features.clone(), outputs: features, ..Default::default() };
        let provider = copied(&described, &named(&[("x", input)])?)?;
        Ok(outputs(&described, &provider, None, &mut BackingUse::default())?.swap_remove("x").expect("the only output"))
    }

    fn numbers(output: &FeatureValue) -> Vec<f64> {
        let FeatureValue::Tensor(tensor) = output else { panic!("{output:?}") };
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
            let output = back(ty.clone(), &image).expect("an image");
            assert_eq!(numbers(&output), samples.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), "{layout:?}");
            let FeatureValue::Tensor(tensor) = &output else { panic!("{output:?}") };
            assert_eq!(tensor.dims(), image.dims());
            let half = layout == ColorLayout::GrayscaleFloat16;
            assert_eq!(tensor.dtype(), if half { DType::F16 } else { DType::F32 });
            let bright = (image * 100.0).expect("an image");
            assert_eq!(back(ty, &bright).is_ok(), half, "{layout:?}: bytes end at 255");
        }
    }

    #[test]
    fn sequences_strings_numbers_and_dictionaries_come_back() {
        let integers = Tensor::new(&[3_i64, -1, i64::MAX], &Device::Cpu).expect("integers");
        let ints = back(FeatureType::Sequence { ints: true }, &integers).expect("a sequence");
        let FeatureValue::Tensor(ints) = ints else { panic!("{ints:?}") };
        assert_eq!(ints.to_vec1::<i64>().expect("integers"), [3, -1, i64::MAX]);
        let texts = ["a".to_owned(), "ä 日".to_owned()];
        let ty = FeatureType::Sequence { ints: false };
        let FeatureValue::Strings(read) = back(ty.clone(), texts.to_vec()).expect("a sequence") else { panic!() };
        assert_eq!(read, texts);
        assert!(back(ty, "a").is_err(), "a string is no sequence");
        let FeatureValue::String(read) = back(FeatureType::String, "ß").expect("a string") else { panic!() };
        assert_eq!(read, "ß");
        let one = Tensor::new(7_i64, &Device::Cpu).expect("a number");
        assert_eq!(numbers(&back(FeatureType::Int64, &one).expect("a number")), [7.0]);
        assert_eq!(numbers(&back(FeatureType::Double, &one).expect("a number")), [7.0]);
        for (int_keys, keys) in [
            (true, [DictionaryKey::Int(-1), DictionaryKey::Int(2)]),
            (false, [DictionaryKey::String("a".to_owned()), DictionaryKey::String("b".to_owned())]),
        ] {
            let entries = keys.map(|key| (key, 0.5));
            let ty = |int_keys| FeatureType::Dictionary { int_keys };
            let FeatureValue::Dictionary(read) = back(ty(int_keys), entries.to_vec()).expect("a dictionary") else {
                panic!()
            };
            assert_eq!(read, entries);
            assert!(back(ty(!int_keys), entries.to_vec()).is_err(), "keys of the other type");
        }
    }

    #[test]
    fn arrays_come_back_in_every_type() {
        for (dtype, ty) in [(DataType::F16, DType::F16), (DataType::F32, DType::F32), (DataType::I32, DType::I32)] {
            let tensor = Tensor::arange(0_i64, 12, &Device::Cpu).and_then(|t| t.reshape((3, 4))?.t()?.to_dtype(ty));
            let tensor = tensor.expect("a tensor");
            let array =
                FeatureType::MultiArray { dtype, shape: vec![4, 3], constraint: ShapeConstraint::Fixed, default: None };
            let output = back(array, &tensor).expect("an array");
            assert_eq!(numbers(&output), numbers(&FeatureValue::Tensor(tensor)), "{dtype}");
        }
    }
}
