// Signatures of Apple's UniformTypeIdentifiers that the app uses, for type-checking elsewhere.
public struct UTType: Sendable {
    public static var folder: UTType { fatalError() }
    public static var image: UTType { fatalError() }
}
