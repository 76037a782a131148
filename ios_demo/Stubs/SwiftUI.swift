// Signatures of Apple's SwiftUI (iOS 18) that the app uses, for type-checking elsewhere.
@_exported import CoreGraphics
@_exported import Observation
@_exported import UIKit
@_exported import UniformTypeIdentifiers

@MainActor @preconcurrency
public protocol View {
    associatedtype Body: View
    @ViewBuilder var body: Body { get }
}

extension Never: View {
    public var body: Never { fatalError() }
}

/// What a view without a body of its own is here.
public protocol Leaf: View where Body == Never {}
extension Leaf {
    public var body: Never { fatalError() }
}

public struct EmptyView: Leaf {
    public init() {}
}
public struct TupleView<T>: Leaf {}
public struct ConditionalContent<A: View, B: View>: Leaf {}
extension Optional: View where Wrapped: View {
    public var body: Never { fatalError() }
}

@resultBuilder
public enum ViewBuilder {
    public static func buildBlock() -> EmptyView { fatalError() }
    public static func buildBlock<V: View>(_ content: V) -> V { content }
    public static func buildBlock<each V: View>(_ content: repeat each V) -> TupleView<(repeat each V)> { fatalError() }
    public static func buildExpression<V: View>(_ content: V) -> V { content }
    public static func buildIf<V: View>(_ content: V?) -> V? { content }
    public static func buildEither<A: View, B: View>(first: A) -> ConditionalContent<A, B> { fatalError() }
    public static func buildEither<A: View, B: View>(second: B) -> ConditionalContent<A, B> { fatalError() }
}

@MainActor @preconcurrency
public protocol Scene {
    associatedtype Body: Scene
    var body: Body { get }
}
extension Never: Scene {}

@MainActor @preconcurrency
public protocol App {
    associatedtype Body: Scene
    var body: Body { get }
    init()
}
extension App {
    public static func main() {}
}

public struct WindowGroup<Content: View>: Scene {
    public init(@ViewBuilder content: () -> Content) {}
    public var body: Never { fatalError() }
}

@propertyWrapper
public struct State<Value> {
    public init(wrappedValue: Value) {}
    public init() where Value: ExpressibleByNilLiteral {}
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set {}
    }
    public var projectedValue: Binding<Value> { fatalError() }
}

@propertyWrapper
@dynamicMemberLookup
public struct Binding<Value> {
    @preconcurrency
    public init(
        get: @escaping @isolated(any) @Sendable () -> Value, set: @escaping @isolated(any) @Sendable (Value) -> Void
    ) {}
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set {}
    }
    public var projectedValue: Binding<Value> { self }
    public subscript<T>(dynamicMember path: WritableKeyPath<Value, T>) -> Binding<T> { fatalError() }
}

@propertyWrapper
@dynamicMemberLookup
public struct Bindable<Value> {
    public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }
    public var wrappedValue: Value
    public var projectedValue: Bindable<Value> { self }
    public subscript<T>(dynamicMember path: ReferenceWritableKeyPath<Value, T>) -> Binding<T> { fatalError() }
}

@propertyWrapper
public struct Environment<Value> {
    public init(_ type: Value.Type) where Value: AnyObject & Observable {}
    public var wrappedValue: Value { fatalError() }
}

public struct LocalizedStringKey: ExpressibleByStringInterpolation, Sendable {
    public init(stringLiteral value: String) {}
}

public struct Text: Leaf {
    public init(_ key: LocalizedStringKey) {}
    @_disfavoredOverload public init<S: StringProtocol>(_ text: S) {}
}
public struct Image: Leaf {
    public init(uiImage: UIImage) {}
    public func resizable() -> Image { self }
}
public struct Label<Title: View, Icon: View>: Leaf {}
extension Label where Title == Text, Icon == Image {
    public init(_ key: LocalizedStringKey, systemImage: String) {}
    @_disfavoredOverload public init<S: StringProtocol>(_ title: S, systemImage: String) {}
}
public struct ButtonRole: Sendable {
    public static var destructive: ButtonRole { fatalError() }
}
public struct Button<Content: View>: Leaf {}
extension Button where Content == Text {
    public init(_ key: LocalizedStringKey, action: @escaping @MainActor () -> Void) {}
    @_disfavoredOverload public init<S: StringProtocol>(_ title: S, action: @escaping @MainActor () -> Void) {}
    public init(_ key: LocalizedStringKey, role: ButtonRole?, action: @escaping @MainActor () -> Void) {}
}
public struct TextField: Leaf {
    public init(_ key: LocalizedStringKey, text: Binding<String>, axis: Axis) {}
}
public struct Toggle: Leaf {
    public init(_ key: LocalizedStringKey, isOn: Binding<Bool>) {}
}
public enum Axis: Sendable { case horizontal, vertical }
public struct ProgressView: Leaf {
    public init(value: Double?, total: Double = 1) {}
}
public struct VStack<Content: View>: Leaf {
    public init(spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) {}
}
public struct Group<Content: View>: Leaf {
    public init(@ViewBuilder content: () -> Content) {}
}
public struct Form<Content: View>: Leaf {
    public init(@ViewBuilder content: () -> Content) {}
}
public struct TabView<Content: View>: Leaf {
    public init(@ViewBuilder content: () -> Content) {}
}
public struct NavigationStack<Content: View>: Leaf {
    public init(@ViewBuilder root: () -> Content) {}
}
public struct Section<Header: View, Content: View, Footer: View>: Leaf {}
extension Section where Header == EmptyView, Footer == EmptyView {
    public init(@ViewBuilder content: () -> Content) {}
}
extension Section where Header == EmptyView {
    public init(@ViewBuilder content: () -> Content, @ViewBuilder footer: () -> Footer) {}
}
extension Section where Header == Text, Footer == EmptyView {
    public init(_ key: LocalizedStringKey, @ViewBuilder content: () -> Content) {}
    @_disfavoredOverload public init<S: StringProtocol>(_ title: S, @ViewBuilder content: () -> Content) {}
}
public struct ForEach<Data: RandomAccessCollection, ID: Hashable, Content: View>: Leaf {
    public init(_ data: Data, id: KeyPath<Data.Element, ID>, @ViewBuilder content: @escaping (Data.Element) -> Content) {
    }
}
public struct LabeledContent: Leaf {
    public init<S: StringProtocol>(_ key: LocalizedStringKey, value: S) {}
    @_disfavoredOverload public init<T: StringProtocol, S: StringProtocol>(_ title: T, value: S) {}
}
public struct ContentUnavailableView: Leaf {
    public init(_ key: LocalizedStringKey, systemImage: String, description: Text? = nil) {}
}
public struct ShareLink<Content: View>: Leaf {
    public init(item: URL, @ViewBuilder label: () -> Content) {}
}

public struct Color: Leaf {}
public protocol ShapeStyle: Sendable {}
extension Color: ShapeStyle {}
public struct HierarchicalShapeStyle: ShapeStyle {}
extension ShapeStyle where Self == HierarchicalShapeStyle {
    public static var secondary: HierarchicalShapeStyle { fatalError() }
}
extension ShapeStyle where Self == Color {
    public static var green: Color { fatalError() }
    public static var red: Color { fatalError() }
}
public struct Font: Sendable {
    public static var footnote: Font { fatalError() }
}
public struct SubmitLabel: Sendable {
    public static var send: SubmitLabel { fatalError() }
}
public struct EnabledTextSelectability: Sendable {
    public static var enabled: EnabledTextSelectability { fatalError() }
}
public struct EdgeInsets {}

public struct Modified<Content: View>: Leaf {}

extension View {
    public func environment<T: AnyObject & Observable>(_ object: T?) -> some View { Modified<Self>() }
    public func task(_ action: @escaping @isolated(any) @Sendable () async -> Void) -> some View { Modified<Self>() }
    public func tabItem<V: View>(@ViewBuilder _ label: () -> V) -> some View { Modified<Self>() }
    public func alert<A: View, M: View>(
        _ title: LocalizedStringKey, isPresented: Binding<Bool>, @ViewBuilder actions: () -> A,
        @ViewBuilder message: () -> M
    ) -> some View { Modified<Self>() }
    public func font(_ font: Font?) -> some View { Modified<Self>() }
    public func foregroundStyle<S: ShapeStyle>(_ style: S) -> some View { Modified<Self>() }
    public func padding(_ length: CGFloat? = nil) -> some View { Modified<Self>() }
    public func navigationTitle(_ key: LocalizedStringKey) -> some View { Modified<Self>() }
    public func onChange<V: Equatable>(
        of value: V, initial: Bool = false, _ action: @escaping (V, V) -> Void
    ) -> some View { Modified<Self>() }
    public func fullScreenCover<V: View>(
        isPresented: Binding<Bool>, onDismiss: (() -> Void)? = nil, @ViewBuilder content: @escaping () -> V
    ) -> some View { Modified<Self>() }
    public func ignoresSafeArea() -> some View { Modified<Self>() }
    public func scaledToFit() -> some View { Modified<Self>() }
    public func frame(maxHeight: CGFloat? = nil) -> some View { Modified<Self>() }
    public func accessibilityLabel(_ key: LocalizedStringKey) -> some View { Modified<Self>() }
    public func submitLabel(_ label: SubmitLabel) -> some View { Modified<Self>() }
    public func disabled(_ disabled: Bool) -> some View { Modified<Self>() }
    public func textSelection(_ selectability: EnabledTextSelectability) -> some View { Modified<Self>() }
    public func monospacedDigit() -> some View { Modified<Self>() }
    public func fileImporter(
        isPresented: Binding<Bool>, allowedContentTypes: [UTType],
        onCompletion: @escaping (Result<URL, any Error>) -> Void
    ) -> some View { Modified<Self>() }
}

@MainActor @preconcurrency
public protocol UIViewControllerRepresentable: View where Body == Never {
    associatedtype UIViewControllerType: UIViewController
    associatedtype Coordinator = Void
    typealias Context = UIViewControllerRepresentableContext<Self>
    func makeUIViewController(context: Context) -> UIViewControllerType
    func updateUIViewController(_ controller: UIViewControllerType, context: Context)
    func makeCoordinator() -> Coordinator
}
extension UIViewControllerRepresentable {
    public var body: Never { fatalError() }
}
@MainActor @preconcurrency
public struct UIViewControllerRepresentableContext<Representable: UIViewControllerRepresentable> {
    public var coordinator: Representable.Coordinator { fatalError() }
}
