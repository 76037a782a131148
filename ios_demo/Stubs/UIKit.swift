// Signatures of Apple's UIKit, and of its Foundation, that the app uses, for type-checking elsewhere.
@_exported import CoreGraphics
@_exported import Darwin

extension URL {
    public static var applicationSupportDirectory: URL { fatalError() }
    public static var documentsDirectory: URL { fatalError() }
    public func startAccessingSecurityScopedResource() -> Bool { fatalError() }
    public func stopAccessingSecurityScopedResource() {}
}

extension ProcessInfo {
    public enum ThermalState: Int, Sendable { case nominal, fair, serious, critical }
    public var thermalState: ThermalState { fatalError() }
    public var isLowPowerModeEnabled: Bool { fatalError() }
}

public final class UIImage: @unchecked Sendable {
    public init(cgImage: CGImage) {}
    public func jpegData(compressionQuality: CGFloat) -> Data? { fatalError() }
}

public enum UIUserInterfaceIdiom: Int, Sendable { case unspecified, phone, pad }

@MainActor
public final class UIDevice {
    public enum BatteryState: Int, Sendable { case unknown, unplugged, charging, full }
    public static var current: UIDevice { fatalError() }
    public var systemName: String { fatalError() }
    public var systemVersion: String { fatalError() }
    public var userInterfaceIdiom: UIUserInterfaceIdiom { fatalError() }
    public var isBatteryMonitoringEnabled = false
    public var batteryLevel: Float { fatalError() }
    public var batteryState: BatteryState { fatalError() }
}

@MainActor
public final class UIApplication {
    public static var shared: UIApplication { fatalError() }
    public var isIdleTimerDisabled = false
}

@MainActor
open class UIViewController {
    public init() {}
}

@MainActor
public protocol UINavigationControllerDelegate: AnyObject {}

@MainActor
public protocol UIImagePickerControllerDelegate: AnyObject {
    func imagePickerController(
        _ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any])
    func imagePickerControllerDidCancel(_ picker: UIImagePickerController)
}

open class UIImagePickerController: UIViewController {
    public enum SourceType: Int, Sendable { case photoLibrary, camera }
    public struct InfoKey: Hashable, Sendable {
        public static let originalImage = InfoKey()
    }
    public class func isSourceTypeAvailable(_ type: SourceType) -> Bool { fatalError() }
    open var sourceType: SourceType = .camera
    open weak var delegate: (any UIImagePickerControllerDelegate & UINavigationControllerDelegate)?
}
