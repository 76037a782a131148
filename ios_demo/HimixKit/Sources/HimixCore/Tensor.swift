/// Numbers with a shape, the last dimension contiguous.
public struct Tensor: Sendable, Equatable {
    public let shape: [Int]
    public let values: [Float]

    /// `values` has to have as many elements as `shape` says.
    public init(shape: [Int], values: [Float]) {
        precondition(values.count == shape.reduce(1, *), "\(values.count) values do not fill \(shape)")
        (self.shape, self.values) = (shape, values)
    }
}
