// Signatures of Apple's Core Graphics and Core Foundation that HimixKit uses, for type-checking elsewhere.
@_exported import Foundation

public typealias CFString = String
public typealias CFData = Data
public typealias CFDictionary = AnyObject
public typealias CFAllocator = Int

public final class CGImage: @unchecked Sendable {
    public var width: Int { fatalError() }
    public var height: Int { fatalError() }
    public var bitsPerComponent: Int { fatalError() }
    public var colorSpace: CGColorSpace? { fatalError() }
}

public enum CGColorSpaceModel: Int32, Sendable { case unknown = -1, monochrome, rgb, cmyk, lab, deviceN, indexed, pattern, XYZ }

public final class CGColorSpace: @unchecked Sendable {
    public static let sRGB: CFString = "sRGB"
    public init?(name: CFString) {}
    public var model: CGColorSpaceModel { fatalError() }
}

public enum CGImageAlphaInfo: UInt32, Sendable {
    case none, premultipliedLast, premultipliedFirst, last, first, noneSkipLast, noneSkipFirst, alphaOnly
}

public enum CGInterpolationQuality: Int32, Sendable { case `default`, none, low, medium, high }

public final class CGContext {
    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int,
        space: CGColorSpace, bitmapInfo: UInt32
    ) {}
    public var data: UnsafeMutableRawPointer? { fatalError() }
    public var bytesPerRow: Int { fatalError() }
    public var interpolationQuality: CGInterpolationQuality {
        get { fatalError() }
        set {}
    }
    public func setFillColor(red: CGFloat, green: CGFloat, blue: CGFloat, alpha: CGFloat) {}
    public func fill(_ rect: CGRect) {}
    public enum Tiling { case once }
    public func draw(_ image: CGImage, in rect: CGRect, byTiling: Bool = false) {}
}
