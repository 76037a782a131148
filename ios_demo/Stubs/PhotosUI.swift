// Signatures of Apple's PhotosUI that the app uses, for type-checking elsewhere.
@_exported import SwiftUI

public protocol Transferable {}
extension Data: Transferable {}

public struct PHPickerFilter: Sendable {
    public static var images: PHPickerFilter { fatalError() }
}

public struct PhotosPickerItem: Equatable, Hashable, Sendable {
    public func loadTransferable<T: Transferable & Sendable>(type: T.Type) async throws -> T? { fatalError() }
}

public struct PhotosPicker: Leaf {
    public init(_ key: LocalizedStringKey, selection: Binding<PhotosPickerItem?>, matching: PHPickerFilter?) {}
}
